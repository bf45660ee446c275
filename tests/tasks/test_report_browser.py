"""The report in a real browser: no console message, no request, nothing wider than a phone."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.report import publish_report
from tests.report_run import write_report_run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars",
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [500, 1280], ids=["phone", "desktop"])
def test_nothing_is_run_or_requested(width: int, tmp_path: Path) -> None:
    assert BROWSER is not None
    run = write_report_run(tmp_path / "run", questions_per_shard=4, arms=3, samples=2, top_k=5)
    page = publish_report(run.root)
    log, picture = tmp_path / "net.json", tmp_path / "page.png"

    finished = subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}",
            f"--window-size={width},3000",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert picture.stat().st_size > 50_000
    assert "CONSOLE" not in finished.stderr
    # the page's own requests and no other: a browser may ask for its maker's services whatever the page says
    assert "evil.example" not in json.dumps(json.loads(log.read_text())["events"])
