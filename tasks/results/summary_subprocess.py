"""Makes the summary of a run in a subprocess: report.json, then the report page and the dataset card.

Polars keeps the memory in which it has read all rollouts. The subprocess gives it back when it ends.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tasks.records import OWN_SCORES, RunPaths
from tasks.results.run_report import RunReport, publish_report, read_report
from tasks.subprocess_call import call_in_subprocess

logger = logging.getLogger(__name__)


def summarize_in_subprocess(run_dir: Path, scores: str = OWN_SCORES) -> RunReport:
    """Make report.json, report.html and README.md of the run at ``run_dir``, and return the report.

    ``scores`` is the folder of the scores; another set than the run's own has its report in there, and no README.md.

    Raises HarvestError. A page or card that could not be made is logged as a warning.
    """
    _call(_summarize, run_dir, scores)
    report = read_report(run_dir, scores)
    assert report is not None  # the subprocess has just published it
    return report


def show_mismatch_in_subprocess(run_dir: Path) -> None:
    """Have report.json, report.html and README.md of the run show mismatch.json, where the run has a report.

    Raises HarvestError. A page or card that could not be made is logged as a warning.
    """
    if RunPaths(root=run_dir).report.exists():
        _call(_show_mismatch, run_dir)


def _call(make: Callable[..., list[str]], run_dir: Path, *arguments: str) -> None:
    paths = RunPaths(root=run_dir)
    log_path = paths.logs / "summary.log"
    for name in call_in_subprocess(make, f"summary of {paths.run_id}", log_path, run_dir, *arguments):
        logger.warning("%s could not be made (log: %s); make it again with harvest report", name, log_path)


def publish_page_and_card(run_dir: Path, scores: str = OWN_SCORES) -> list[str]:
    """Make report.html, and README.md for the run's own scores. Log errors; return the names of those that fail."""
    from tasks.results.report_page import publish_page
    from tasks.results.run_card import publish_card

    failed = []
    makers: dict[str, Callable[[], Path]] = {"report.html": lambda: publish_page(run_dir, scores)}
    if scores == OWN_SCORES:
        makers["README.md"] = lambda: publish_card(run_dir)
    for name, publish in makers.items():
        try:
            publish()
        except Exception:  # the run itself is complete without them
            logger.exception("%s of %s failed; make it again with harvest report", name, run_dir)
            failed.append(name)
    return failed


def _show_mismatch(run_dir: Path) -> list[str]:
    from tasks.results.summary import mismatch_outcome

    if report := read_report(run_dir):
        publish_report(replace(report, mismatch=mismatch_outcome(run_dir)), run_dir)
    return publish_page_and_card(run_dir)


def _summarize(run_dir: Path, scores: str) -> list[str]:
    from tasks.results.summary import summarize_run

    summarize_run(run_dir, scores)
    return publish_page_and_card(run_dir, scores)
