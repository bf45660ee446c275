"""What people read of a finished run: its report and its dataset card."""

import logging
from pathlib import Path

from tasks.results.report import publish_report
from tasks.results.run_card import publish_card

logger = logging.getLogger(__name__)

_VIEWS = {"report.html": publish_report, "README.md": publish_card}


def publish_views(run_dir: Path) -> list[str]:
    """Make report.html and README.md; returns those that failed, which is logged and leaves the run as it is."""
    failed = []
    for name, publish in _VIEWS.items():
        try:
            publish(run_dir)
        except Exception:  # a run is worth more than a page about it
            logger.exception("%s of %s failed; make it again with harvest report", name, run_dir)
            failed.append(name)
    return failed
