"""The report in a real browser: no message, no request, nothing wider than the screen; what its script does."""

import json
from pathlib import Path

import pytest

from tasks.records import RunPaths
from tasks.results.report_page import publish_page
from tests.support.chromium import CHROMIUM, Tab, browser_tab
from tests.support.report_run import write_report_run

OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"
WIDER = """
[...document.querySelectorAll('body *')]
  .filter(part => !part.parentElement.closest('.scroll'))
  .filter(part => part.getBoundingClientRect().right > innerWidth + 0.5
    || part.scrollWidth > part.clientWidth + 1 && !part.matches('.scroll') && part.clientWidth && !part.ownerSVGElement)
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
@pytest.mark.parametrize("width", [390, 768, 1440], ids=["phone", "tablet", "desktop"])
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
        assert [ground_of(tab, scheme) for scheme in ("light", "dark")] == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]

    assert [url for url in tab.requests if not url.startswith("data:")] == [page]
    assert tab.messages == []
    # also what is no request yet, such as a name that is looked up ahead of one
    assert "evil.example" not in json.dumps(json.loads(log.read_text())["events"])


def ground_of(tab: Tab, scheme: str) -> str:
    """The page's ground where the browser prefers that scheme."""
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_sorting_filtering_and_the_other_scheme(run: RunPaths, tmp_path: Path) -> None:
    arms = "[...document.querySelectorAll('table.sortable tbody th')].map(head => head.textContent)"
    shown = "[...document.querySelectorAll('#sample-list > :not([hidden])')].map(item => item.dataset.{0}).sort()"
    with browser_tab(tmp_path / "profile") as tab:
        tab.open(run.report_html.as_uri(), width=1440)
        ranked = tab.evaluate(arms)
        tab.evaluate("document.querySelector('th button').click()")
        assert tab.evaluate(arms) == sorted(ranked)
        tab.evaluate("document.querySelector('th button').click()")
        assert tab.evaluate(arms) == sorted(ranked, reverse=True)
        assert tab.evaluate("[...document.querySelectorAll('[aria-sort]')].map(head => head.ariaSort)") == [
            "descending"
        ]
        tab.evaluate("document.querySelectorAll('th button')[1].click()")
        assert tab.evaluate(arms) == ranked

        everything = len(tab.evaluate(shown.format("arm")))
        tab.evaluate(_CHOOSE.format("arm", "concise"))
        assert {*tab.evaluate(shown.format("arm"))} == {"concise"}
        tab.evaluate(_CHOOSE.format("kind", "right"))
        assert {*tab.evaluate(shown.format("kind"))} == {"right"}
        found = len(tab.evaluate(shown.format("arm")))
        assert tab.evaluate("document.querySelector('output').textContent") == f"{found} of {everything} shown"
        tab.evaluate(_SEARCH.format("EVIL.example document.cookie"))
        assert len(tab.evaluate(shown.format("arm"))) == found
        tab.evaluate(_SEARCH.format("not in any text"))
        assert tab.evaluate(shown.format("arm")) == []

        before = tab.evaluate("document.querySelector('.theme').ariaPressed")
        tab.evaluate("document.querySelector('.theme').click()")
        assert {before, tab.evaluate("document.querySelector('.theme').ariaPressed")} == {"true", "false"}
    assert tab.messages == []


_CHOOSE = """
(select => {{ select.value = "{1}"; select.dispatchEvent(new Event("input", {{bubbles: true}})); }})
  (document.querySelector("select[name={0}]"))
"""
_SEARCH = """
(input => {{ input.value = "{0}"; input.dispatchEvent(new Event("input", {{bubbles: true}})); }})
  (document.querySelector("input[type=search]"))
"""
