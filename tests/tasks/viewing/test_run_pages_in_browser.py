"""The pages of ``harvest view`` in a real browser: a run is followed to its end, nothing is wider than the screen."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.viewing.run_server import RunServer
from tests.support.chromium import CHROMIUM, browser_tab
from tests.support.synthetic import write_run

WIDTHS = (390, 768, 1440)
PAGES = ("", "run/half", "run/whole/rollouts", "run/whole/question?id=q0000000", "compare?run=whole&run=other")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunServer]:
    runs_dir = tmp_path / "runs"
    write_run(runs_dir / "half", arms=2).rollouts(1).unlink()
    write_run(runs_dir / "whole", samples=2)
    write_run(runs_dir / "other", samples=2, variant=1)
    with RunServer(runs_dir, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_runs_are_followed_and_fit_the_screen(server: RunServer, tmp_path: Path) -> None:
    runs_dir = server.pages.runs_dir
    with browser_tab(tmp_path / "profile") as tab:
        for width in WIDTHS:
            for page in PAGES:
                tab.open(f"{server.url}{page}", width=width, mobile=width < 500)
                tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
                assert tab.evaluate("document.documentElement.scrollWidth") == width, page
        assert tab.messages == []

        tab.open(f"{server.url}run/half", width=1440)
        assert "8 of 16 rollouts are finished" in tab.evaluate("document.body.innerText")
        write_run(runs_dir / "half", arms=2)
        tab.wait_for("document.querySelector('#sample-list') !== null")

        tab.open(server.url, width=1440)
        tab.evaluate("document.querySelector('input[value=whole]').click()")
        shutil.rmtree(runs_dir / "half")
        tab.wait_for("document.querySelectorAll('#run-list tr').length === 2")
        assert tab.evaluate("[...document.querySelectorAll('input:checked')].map(box => box.value).join()") == "whole"
        tab.evaluate("document.querySelector('input[value=other]').click()")
        tab.evaluate("document.querySelector('form button:not([type])').click()")
        tab.wait_for("document.querySelector('h1').textContent === 'Two runs'")
