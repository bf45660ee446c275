"""The end of a run in a process of its own: report.json, report.html and the dataset card.

What polars takes to read all rollouts of a run is not given back before the process ends. So that process is not the
flow's, which stays as small at the end of a run as it was while it generated, whatever the run's size.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.errors import HarvestError
from tasks.parent_death import die_with_parent
from tasks.records import RunPaths
from tasks.store import read_json

logger = logging.getLogger(__name__)


def summarize_apart(run_dir: Path) -> dict[str, Any]:
    """Make report.json and the views of the run at ``run_dir``; returns the report.

    Raises the HarvestError that arose, or one that names the log. A view that could not be made is a warning.
    """
    paths = RunPaths(root=run_dir)
    log_path = paths.logs / "summary.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tasks.summary_process", str(os.getpid()), str(run_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    if ended.returncode:
        raise HarvestError(
            f"the process that summarizes {paths.run_id} {_ending(ended.returncode, log_path)} (log: {log_path}). "
            "Run the same command again: it generates nothing anew"
        )
    error, failed_views = pickle.loads(ended.stdout)
    if error is not None:
        raise error
    for view in failed_views:
        logger.warning("%s could not be made (log: %s); make it again with harvest report", view, log_path)
    report: dict[str, Any] = read_json(paths.report)
    return report


def _ending(code: int, log_path: Path) -> str:
    if code == -signal.SIGKILL:
        return "was killed, as the kernel does when memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return f"ended with code {code}: {lines[-1].strip() if lines else 'it said nothing'}"


def main(parent_pid: int, run_dir: Path) -> None:
    """The process: what becomes of the run goes to its standard output, everything else to its log."""
    die_with_parent(parent_pid)
    logging.basicConfig(level=logging.INFO)
    error: HarvestError | None = None
    failed_views: list[str] = []
    with contextlib.redirect_stdout(sys.stderr):
        from tasks.run_views import publish_views
        from tasks.summary import summarize_run

        try:
            summarize_run(run_dir)
            failed_views = publish_views(run_dir)
        except HarvestError as raised:
            error = raised
    sys.stdout.buffer.write(pickle.dumps((error, failed_views)))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
