"""Has the kernel read a model's weights into its page cache while the engine's process still imports."""

import contextlib
import os
import threading

from tasks.errors import ConfigError
from tasks.node.host_memory import read_host_memory
from tasks.plan.model_files import weight_files
from tasks.plan.run_plan import RunPlan

MOST_OF_MEMORY = 0.5
"""Weights larger than this share of the available memory are not read: the first would be gone before the last came."""


def read_weights_ahead(plan: RunPlan) -> threading.Thread | None:
    """Begin to read the plan's weights, in a thread. None when there are none, or memory has no room for them."""
    if plan.profile.engine.load_format == "dummy":
        return None
    try:
        files = weight_files(plan.model.path)
        size = sum(file.stat().st_size for file in files)
    except (ConfigError, OSError):
        return None  # the engine says what is wrong
    if not files or size > MOST_OF_MEMORY * read_host_memory().available:
        return None

    def read() -> None:
        for file in files:
            with contextlib.suppress(OSError), file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    thread = threading.Thread(target=read, name="weights", daemon=True)
    thread.start()
    return thread
