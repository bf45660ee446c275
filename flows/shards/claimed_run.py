"""A run while this process works on it: under its lock, with a record of an end that comes too early."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect import runtime
from prefect.exceptions import CancelledRun

from flows.reporting.flow_failures import log_last_lines
from flows.server.interruption import was_signalled
from tasks.errors import EngineError, HarvestError
from tasks.files import DAMAGED, atomic_path
from tasks.locks import run_lock
from tasks.plan.run_directory import remove_run
from tasks.records import RunPaths
from tasks.results.run_end import read_end, record_end
from tasks.results.run_state import run_state
from tasks.storage.published import record_path

_WORK = ("rollouts", "scores*", "state/journal")


@contextlib.contextmanager
def claimed(paths: RunPaths) -> Iterator[None]:
    """Hold the run's lock. Raises RunLocked and ConfigError.

    An error that refuses the run before anything of it was made takes the run's directory with it, or leaves it as it
    was if there was one. Another one is recorded, unless the run is finished.
    """
    root = paths.root
    is_new = not root.exists()
    with run_lock(paths.state / "lock", flow_run=f"{runtime.flow_run.name} ({runtime.flow_run.id})"):
        before, end = _Before.of(paths), read_end(root)
        try:
            yield
        except BaseException as error:
            if _refuses(error):
                before.put_back(root)
            if not _refuses(error) or before.work != _work(root):
                # a collection may have recorded why this run of it failed
                if read_end(root) == end and not run_state(root, is_mine=True).is_complete:
                    record_end(root, error, interrupted=isinstance(error, CancelledRun) or was_signalled())
                raise
            if isinstance(error, EngineError) and error.log_path is not None:
                log_last_lines(error.log_path)
            with contextlib.suppress(HarvestError):
                remove_run(root) if is_new else before.restore()
            if is_new and isinstance(error, EngineError):
                # its log went with the directory
                raise type(error)(error.reason, remedy=error.remedy) from None
            raise


@dataclass(frozen=True, kw_only=True)
class _Before:
    """What a run's directory held before this process."""

    files: dict[Path, bytes | None]
    """The content of each file that is written before anything is made of the run; None of one that was not there."""
    work: frozenset[tuple[str, int, int]]
    aside: frozenset[Path]
    """Damaged files that were set aside before."""

    @classmethod
    def of(cls, paths: RunPaths) -> "_Before":
        published = (paths.config, paths.prompts, paths.preflight)
        files = (*published, *map(record_path, published), paths.end)
        return cls(
            files={path: path.read_bytes() if path.is_file() else None for path in files},
            work=_work(paths.root),
            aside=_aside(paths.root),
        )

    def put_back(self, root: Path) -> None:
        """Undo that damaged files were set aside: the next session finds them again, and says so."""
        for path in _aside(root) - self.aside:
            original = path.with_name(path.name.removesuffix(DAMAGED))
            if not original.exists():
                with contextlib.suppress(OSError):
                    path.rename(original)
            elif original in self.files:
                path.unlink(missing_ok=True)

    def restore(self) -> None:
        for path, content in self.files.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != content:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)


def _refuses(error: BaseException) -> bool:
    return isinstance(error, HarvestError) and error.exit_code == 2


def _aside(root: Path) -> frozenset[Path]:
    return frozenset(root.rglob(f"*{DAMAGED}"))


def _work(root: Path) -> frozenset[tuple[str, int, int]]:
    """Return what identifies the files that a run is for: names, sizes and times in nanoseconds."""
    found = [path for folder in _WORK for path in root.glob(f"{folder}/shard-*")] + [RunPaths(root=root).manifest]
    stats = [(str(path), path.stat()) for path in found if path.is_file()]
    return frozenset((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
