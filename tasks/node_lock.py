"""One run at a time on a GPU: a ``flock`` per device on the node, which the kernel drops with its holder."""

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tasks.replica_slot import gpu_slices
from tasks.run_lock import describe_holder, write_holder
from tasks.run_plan import RunPlan

POLL_SECONDS = 1.0
_HELD = "HARVEST_GPUS_HELD"
"""GPUs that this process or the one that started it has locked."""


def gpus_of(plan: RunPlan) -> list[str]:
    """The GPUs that a run of ``plan`` uses in this process, named as in CUDA_VISIBLE_DEVICES. Raises ConfigError."""
    slices = gpu_slices(plan, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return [gpu for replica in slices if replica for gpu in replica]


def default_directory() -> Path:
    """Where the locks of this node are: the same for every user and every run on it."""
    return Path(os.environ.get("HARVEST_LOCK_DIR") or Path(tempfile.gettempdir()) / "rollout-harvest")


@contextlib.contextmanager
def node_lock(
    gpus: Sequence[str], *, run_id: str, waiting: Callable[[str], None], directory: Path | None = None
) -> Iterator[None]:
    """Hold ``gpus``, named as in CUDA_VISIBLE_DEVICES; wait while others hold any of them.

    ``waiting`` is told for whom, once per holder. A process started inside has them too. Without GPUs nothing is held.
    """
    held = set(filter(None, os.environ.get(_HELD, "").split(",")))
    wanted = sorted(set(gpus) - held)
    with contextlib.ExitStack() as stack:
        # everyone takes them in the same order, so that no two wait for each other
        for gpu in wanted:
            _take(gpu, run_id, waiting, directory or default_directory(), stack)
        before = os.environ.get(_HELD)
        os.environ[_HELD] = ",".join(sorted({*held, *wanted}))
        try:
            yield
        finally:
            if before is None:
                del os.environ[_HELD]
            else:
                os.environ[_HELD] = before


def _take(gpu: str, run_id: str, waiting: Callable[[str], None], directory: Path, stack: contextlib.ExitStack) -> None:
    descriptor = _open(directory, gpu)
    stack.callback(os.close, descriptor)
    told = ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = describe_holder(descriptor)
            if holder != told:
                waiting(f"waiting for GPU {gpu}, in use by {holder}")
                told = holder
            time.sleep(POLL_SECONDS)
    write_holder(descriptor, run_id=run_id)


def _open(directory: Path, gpu: str) -> int:
    # shared by all users of the node, whatever their umask
    with contextlib.suppress(FileExistsError):
        directory.mkdir(parents=True)
        directory.chmod(0o1777)
    path = directory / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor
