"""The end of a run in a process of its own: report.json, report.html and the dataset card."""

import logging
from pathlib import Path
from typing import Any

from tasks.files import read_json
from tasks.records import RunPaths
from tasks.subprocess_call import call_in_subprocess

logger = logging.getLogger(__name__)


def summarize_apart(run_dir: Path) -> dict[str, Any]:
    """Make report.json and the views of the run at ``run_dir``; returns the report.

    Raises HarvestError. A view that could not be made is a warning.
    """
    paths = RunPaths(root=run_dir)
    log_path = paths.logs / "summary.log"
    for view in call_in_subprocess(_summarize, f"summary of {paths.run_id}", log_path, run_dir):
        logger.warning("%s could not be made (log: %s); make it again with harvest report", view, log_path)
    report: dict[str, Any] = read_json(paths.report)
    return report


def _summarize(run_dir: Path) -> list[str]:
    from tasks.results.run_views import publish_views
    from tasks.results.summary import summarize_run

    summarize_run(run_dir)
    return publish_views(run_dir)
