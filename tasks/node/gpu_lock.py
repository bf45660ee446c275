"""Locks GPUs, so that one run at a time uses each.

Two engines on one GPU would run out of memory. The lock is a ``flock`` per GPU, which the kernel drops when its holder
ends in any way.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tasks.errors import ConfigError
from tasks.locks import check_lock_file, describe_holder, write_holder

DEFAULT_DIRECTORY = Path("/run/lock/rollout-harvest")
"""Not below /tmp: there the system removes old files, and a service may have a private /tmp."""
POLL_SECONDS = 1.0
_HELD = "HARVEST_GPUS_HELD"
"""Environment variable that names the GPUs that this process, or the process that started it, has locked."""


def default_directory() -> Path:
    """The directory of this node's locks, the same for every user, service and container."""
    return Path(os.environ.get("HARVEST_LOCK_DIR") or DEFAULT_DIRECTORY)


@contextlib.contextmanager
def lock_gpus(
    gpus: Sequence[str], *, run_id: str, on_wait: Callable[[str], None], directory: Path | None = None
) -> Iterator[None]:
    """Hold ``gpus``, named as in CUDA_VISIBLE_DEVICES, inside the context; first wait while others hold any of them.

    ``on_wait`` is called once per holder, with a message that names it. A process that starts inside the context holds
    the GPUs too. Raises ConfigError when the locks cannot be made in ``directory``.
    """
    held = set(filter(None, os.environ.get(_HELD, "").split(",")))
    wanted = sorted(set(gpus) - held)
    with contextlib.ExitStack() as stack:
        # every process locks GPUs in the same order, so that no two wait for each other
        for gpu in wanted:
            _take(gpu, run_id, on_wait, directory or default_directory(), stack)
        before = os.environ.get(_HELD)
        os.environ[_HELD] = ",".join(sorted({*held, *wanted}))
        try:
            yield
        finally:
            if before is None:
                del os.environ[_HELD]
            else:
                os.environ[_HELD] = before


def _take(gpu: str, run_id: str, on_wait: Callable[[str], None], directory: Path, stack: contextlib.ExitStack) -> None:
    descriptor = _open(directory, gpu)
    stack.callback(os.close, descriptor)
    check_lock_file(descriptor, _path(directory, gpu))
    told = ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = describe_holder(descriptor)
            if holder != told:
                on_wait(f"waiting for GPU {gpu}, in use by {holder}")
                told = holder
            time.sleep(POLL_SECONDS)
    write_holder(descriptor, run_id=run_id)


def _open(directory: Path, gpu: str) -> int:
    path = _path(directory, gpu)
    try:
        return _open_shared(path)
    except OSError as error:
        raise ConfigError(
            f"the lock of GPU {gpu} cannot be opened: {error}. Have root run `install -d -m 1777 {directory}` and "
            f"remove {path} if it is there, or set HARVEST_LOCK_DIR to one directory for all users of this node's GPUs"
        ) from error


def _path(directory: Path, gpu: str) -> Path:
    return directory / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock"


def _open_shared(path: Path) -> int:
    """Descriptor of a file that all users of the node share, whatever their umask; the file is made if needed."""
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o1777)
    while True:
        # in a sticky directory the kernel refuses O_CREAT on the file of another user (fs.protected_regular)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.fchmod(descriptor, 0o666)
            return descriptor
