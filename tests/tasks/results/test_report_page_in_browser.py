"""The report in a real browser: no console message, no request, nothing wider than a phone."""

import json
from pathlib import Path

import pytest

from tasks.records import RunPaths
from tasks.results.report_page import publish_page
from tests.support.chromium import CHROMIUM, browser_tab
from tests.support.report_run import write_report_run

OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"
WIDER = """
[...document.querySelectorAll('body *')]
  .filter(part => !part.parentElement.closest('.scroll'))
  .filter(part => part.getBoundingClientRect().right > innerWidth + 0.5
    || part.scrollWidth > part.clientWidth + 1 && !part.matches('.scroll') && part.clientWidth)
  .map(part => part.tagName + ' ' + part.className)
"""
"""Elements that reach past the screen, or whose content does past them; tables scroll by themselves."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    run = write_report_run(tmp_path_factory.mktemp("runs") / "run", questions_per_shard=4, arms=3, samples=2, top_k=5)
    publish_page(run.root)
    return run


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_nothing_is_run_requested_or_cut_off(width: int, run: RunPaths, tmp_path: Path) -> None:
    page, log = run.report_html.as_uri(), tmp_path / "net.json"
    with browser_tab(tmp_path / "profile", f"--log-net-log={log}") as tab:
        tab.open(page, width=width, mobile=width < 500)
        assert (tab.evaluate("innerWidth"), tab.evaluate("document.documentElement.scrollWidth")) == (width, width)
        assert tab.evaluate(WIDER) == []
        tab.screenshot(tmp_path / "closed.png")
        tab.evaluate(OPEN_ALL)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate(WIDER) == []
        tab.screenshot(tmp_path / "open.png")

    assert [url for url in tab.requests if not url.startswith("data:")] == [page]
    assert tab.messages == []
    # also what is no request yet, such as a name that is looked up ahead of one
    assert "evil.example" not in json.dumps(json.loads(log.read_text())["events"])
