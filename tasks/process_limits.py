"""Limits on a process: the shell's (ulimit), checked before the imports that would fail under them, and our own."""

import resource

from tasks.errors import ConfigError
from tasks.units import GIB, format_gib

ADDRESS_SPACE_LEAST = 2 * GIB
"""What Polars and pyarrow reserve; most of it is never used."""
ADDRESS_SPACE_OF_RUN = 8 * GIB
"""The same with Prefect, torch and vLLM."""
OPEN_FILES_LEAST = 1024


def check_address_space(least: int = ADDRESS_SPACE_LEAST) -> None:
    """Raise ConfigError when this process may reserve less than ``least`` bytes of address space."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < least:
        raise ConfigError(
            f"the limit on address space is {format_gib(soft)} (ulimit -v); at least {format_gib(least)} are needed. "
            "Run ulimit -v unlimited"
        )


def check_limits_of_run() -> None:
    """Raise ConfigError when this process may reserve too little address space or open too few files for a run."""
    check_address_space(ADDRESS_SPACE_OF_RUN)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_LEAST:
        raise ConfigError(
            f"the limit on open files is {soft} (ulimit -n); at least {OPEN_FILES_LEAST} are needed. Run ulimit -n 4096"
        )


def limit_memory(more: int) -> None:
    """Let this process reserve at most ``more`` bytes beside those that it has; then it gets a MemoryError."""
    import psutil

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
