"""What people read of a finished run: its report and its dataset card."""

import logging
from pathlib import Path

from tasks.report import publish_report
from tasks.run_card import publish_card

logger = logging.getLogger(__name__)


def publish_views(run_dir: Path) -> None:
    """Make report.html and README.md. A failure is logged and leaves the run as it is."""
    for publish in (publish_report, publish_card):
        try:
            publish(run_dir)
        except Exception:  # a run is worth more than a page about it
            logger.exception("%s failed for %s; make it again with harvest report", publish.__name__, run_dir)
