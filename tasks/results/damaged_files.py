"""Sets aside the damaged files of a run, so that the run goes on and makes them again.

Published files are compared with their records. The others are read; records in journals are not, as each has its own
checksum.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.comparison.equivalence_report import read_equivalence
from tasks.comparison.mismatch_report import read_mismatch
from tasks.errors import DamagedFile, DamagedRecord
from tasks.files import DAMAGED, read_record, set_aside
from tasks.generation.generation_log import read_sessions
from tasks.generation.rung_state import RungState, check_saved_rung
from tasks.node.preflight_report import read_preflight
from tasks.node.prompt_check import read_prompts
from tasks.node.telemetry import load_telemetry
from tasks.plan.run_plan import RunPlan
from tasks.process_tree import ReplicaProcesses
from tasks.records import WAVES, RunPaths, shard_index, shard_of
from tasks.results.finished_run import read_config
from tasks.results.run_end import RunEnd
from tasks.results.run_report import read_report
from tasks.storage.manifest import SHARD_FOLDERS, Manifest
from tasks.storage.multipart_uploads import MultipartUpload
from tasks.storage.published import PublishedRecord, forget_published
from tasks.storage.run_files import Settled, damaged_files, missing_files, strange_files
from tasks.storage.upload_record import UploadRecord

_RECORDS = (*(f"state/{folder}" for folder in SHARD_FOLDERS), f"state/{WAVES}", "state/published")
_FOLDERS = (*SHARD_FOLDERS, *_RECORDS, "logs", "state/journal", "state/settled", "state/multipart")
_FILE_SUFFIXES = {".json", ".jsonl", ".parquet", ".html", ".md", ".log", ".lock"}
_LOST = {
    "telemetry.parquet": "the samples of earlier sessions are lost",
    "generation.json": "the time and the counters of earlier sessions are lost",
    "oom_ladder.json": "the run begins with the full question batch",
    "end.json": "how the run ended before is not known any more",
    "prompts.json": "the prompts are rendered again",
    "preflight.json": "the next preflight makes it again",
    "equivalence.json": "the next comparison makes it again",
    "mismatch.json": "harvest mismatch makes it again",
    "upload_receipt.json": "the next upload asks the destination what it holds",
}
"""What follows when a file is gone, of the files that this run may not make again as they were."""


def set_aside_damaged(plan: RunPlan) -> list[str]:
    """Rename each damaged file of the run to ``NAME.damaged``; return a line about each, which names it.

    Call it with the run's lock, before anything reads the run. Leaves the directory of another run as it is. Raises
    StorageError when a file cannot be renamed.
    """
    root = plan.paths.root
    if _is_of_another(plan):
        return []
    told = {path: _set_aside(path, reason) for path, reason in [*_odd(root)]}
    told |= {root / name: _set_aside(root / name, reason) for name, reason in damaged_files(root).items()}
    told |= _strange(plan)
    for check in _checks(plan):
        try:
            check()
        except DamagedRecord as error:
            told[error.path] = _set_aside(error.path, error.reason)
    for name in missing_files(root):
        if name in _LOST:
            told.setdefault(root / name, f"{root / name} is missing: {_LOST[name]}")
            forget_published(root / name)
    return list(told.values())


def _is_of_another(plan: RunPlan) -> bool:
    try:
        known = read_config(plan.paths.root)
    except DamagedFile:
        return False
    return bool(known) and known["fingerprint"] != plan.fingerprint


def _strange(plan: RunPlan) -> dict[Path, str]:
    """Return a line about each file with a shard's name that is not on record; rollouts of the plan are set aside."""
    told = {}
    for path in (plan.paths.root / name for name in strange_files(plan.paths.root)):
        index = shard_index(path)
        if shard_of(index) >= plan.num_shards:
            told[path] = f"{path} is not a file of this run and is left out. Move it away"
        elif path == plan.paths.rollouts(index) and not plan.paths.journal(index).exists():
            # with its journal, it was published right before a kill, and comes from there again
            told[path] = _set_aside(path, "its sha256 is not on record")
    return told


def _set_aside(path: Path, reason: str) -> str:
    aside = set_aside(path)
    return f"{path} is damaged: {reason}. It is now {aside.name}, and {_LOST.get(path.name, 'is made again')}"


def _odd(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is not a file where files are, and not a folder where folders are."""
    for name in _FOLDERS:
        if (path := root / name).exists() and not path.is_dir():
            yield path, "it is not a directory"
    for folder, folders, files in os.walk(root):
        odd = [name for name in folders if Path(name).suffix in _FILE_SUFFIXES]
        folders[:] = [name for name in folders if name not in odd and not name.endswith(DAMAGED)]
        yield from ((Path(folder, name), "it is a directory, not a file") for name in odd)
        for name in files:
            path = Path(folder, name)
            if not name.endswith(DAMAGED) and path.exists() and not stat.S_ISREG(path.stat().st_mode):
                yield path, "it is a pipe, a socket or a device, not a file"


def _checks(plan: RunPlan) -> Iterator[Callable[[], object]]:
    """Yield a call for each small file that there may be, which raises DamagedFile."""
    paths = plan.paths
    yield lambda: read_config(paths.root)
    yield lambda: read_prompts(paths.root)
    yield lambda: read_preflight(paths.root)
    yield lambda: read_equivalence(paths.root)
    yield lambda: read_mismatch(paths.root)
    yield lambda: read_report(paths.root)
    yield lambda: read_record(paths.end, RunEnd)
    yield lambda: read_record(paths.manifest, Manifest)
    yield lambda: read_record(paths.upload_record, UploadRecord)
    yield lambda: load_telemetry(paths.telemetry)
    yield lambda: read_sessions(paths.state / "generation.json")
    yield lambda: RungState(paths.state / "oom_ladder.json")
    yield lambda: check_saved_rung(plan)
    for folder in _RECORDS:
        yield from _records(paths, f"{folder}/*.json", PublishedRecord)
    yield from _records(paths, "state/settled/*.json", Settled)
    yield from _records(paths, "state/multipart/*.json", MultipartUpload)
    yield from _records(paths, "state/replica-*.pid.json", ReplicaProcesses)


def _records(paths: RunPaths, pattern: str, kind: type[Any]) -> Iterator[Callable[[], object]]:
    for path in sorted(paths.root.glob(pattern)):
        yield lambda path=path: read_record(path, kind)  # type: ignore[misc]  # mypy infers no type for the default
