"""A directory of its own for the sockets of one engine's processes: vLLM leaves them behind when they are killed."""

import tempfile
from collections.abc import Mapping

SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
"""vLLM's variable for their directory, which is no part of its compile cache's key."""
LONGEST_DIRECTORY = 50
"""A socket's path has at most 107 bytes (unix(7)): this, 17 of the directory's own name, and 37 of vLLM's."""


def socket_directory(environment: Mapping[str, str]) -> "tempfile.TemporaryDirectory[str]":
    """Make a directory where ``environment`` wants sockets, in /tmp if that path is too long. Raises OSError."""
    above = environment.get(SOCKETS_VARIABLE) or tempfile.gettempdir()
    fits = len(above.encode()) <= LONGEST_DIRECTORY
    return tempfile.TemporaryDirectory(prefix="harvest-", dir=above if fits else "/tmp", ignore_cleanup_errors=True)
