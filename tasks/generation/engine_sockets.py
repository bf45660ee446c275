"""A directory of its own for the sockets of one engine's processes: vLLM leaves them behind when they are killed.

The process that made the directory holds an flock on it. One that nobody holds is of a process that was killed, and the
next engine on this machine removes it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
"""vLLM's variable for their directory, which is no part of its compile cache's key."""
LONGEST_DIRECTORY = 50
"""A socket's path has at most 107 bytes (unix(7)): this, 17 of the directory's own name, and 37 of vLLM's."""
_PREFIX = "harvest."
_LEAST_AGE_SECONDS = 60.0
"""Of a directory that is removed: its maker may not have locked a newer one yet."""


@contextlib.contextmanager
def socket_directory(environment: Mapping[str, str]) -> Iterator[str]:
    """Make a directory where ``environment`` wants sockets, in /tmp if that path is too long. Raises OSError."""
    above = environment.get(SOCKETS_VARIABLE) or tempfile.gettempdir()
    above = above if len(above.encode()) <= LONGEST_DIRECTORY else "/tmp"
    _remove_abandoned(Path(above))
    with contextlib.ExitStack() as held:
        made = held.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX, dir=above, ignore_cleanup_errors=True))
        # where a file system has no locks, nothing is removed either
        with contextlib.suppress(OSError):
            held.enter_context(_locked(made))
        yield made


def _remove_abandoned(above: Path) -> None:
    for path in above.glob(f"{_PREFIX}????????"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEAST_AGE_SECONDS:
                with _locked(path):
                    shutil.rmtree(path)


@contextlib.contextmanager
def _locked(path: str | Path) -> Iterator[None]:
    """Hold the directory's lock. Raises OSError when another process has it, or on a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
