"""The directories in which the workers of a node work, on its own disk: ``HARVEST_HOME/nodes/NUMBER/RUN_ID``.

A worker that ends in good order removes them, as its shards are fetched. One that is killed leaves its journals and its
finished shards, with which the next one on the node goes on. What nobody came back for is removed after a week. What
stays is ``NUMBER/.memory``, the rung of the OOM ladder at which later runs begin.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.errors import HarvestError, RunLocked
from tasks.files import atomic_path
from tasks.fleet.node_status import Key, ShardOrder
from tasks.generation.journal import read_journal
from tasks.locks import run_lock
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths, shard_index, shard_indices
from tasks.storage.published import record_path, record_published
from tasks.user_paths import check_directory, user_path

KEPT_SECONDS = 7 * 86400.0
"""How long a directory is kept after a worker began in it, for a command that resumes."""


def nodes_directory() -> Path:
    return user_path(os.environ.get("HARVEST_HOME") or "~/rollout-harvest") / "nodes"


def lock_scratch(accepted: Sequence[RunPlan], stack: contextlib.ExitStack) -> tuple[RunPlan, ...]:
    """Return the plans in directories that no other worker uses; ``stack`` holds their locks. Raises ConfigError."""
    check_directory(nodes_directory(), "the node's directory")
    number = 0
    while True:
        above = nodes_directory() / str(number)
        plans = tuple(replace(plan, paths=RunPaths(root=above / plan.run_id)) for plan in accepted)
        try:
            for plan in plans:
                stack.enter_context(run_lock(plan.paths.state / "lock"))
            return plans
        except RunLocked:
            stack.close()
            number += 1


def shards_begun(plans: Sequence[RunPlan]) -> frozenset[Key]:
    """Return the shards of which there are rollouts."""
    begun = set()
    for plan in plans:
        for path in plan.paths.journal(0).parent.glob("shard-*.jsonl"):
            if read_journal(path, plan.run_id, keep_rollouts=False).finished:
                begun.add((plan.run_id, shard_index(path.with_suffix(".parquet"))))
        begun |= {(plan.run_id, index) for index in shard_indices(plan.paths.rollouts(0).parent)}
    return frozenset(begun)


def store_order(paths: RunPaths, order: ShardOrder) -> None:
    """Write what a shard is made from. Raises StorageError."""
    index = order.shard.index
    store(paths.questions(index), order.questions)
    record_published(paths.questions(index))
    if order.journal is not None and not paths.journal(index).exists():
        store(paths.journal(index), order.journal)


def remove_shard(paths: RunPaths, index: int) -> None:
    paths.journal(index).unlink(missing_ok=True)
    for path in (paths.rollouts(index), paths.questions(index)):
        record_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def remove_runs(run_ids: Sequence[str]) -> None:
    """Remove what workers have left of these runs, unless another uses it."""
    for above in nodes_directory().glob("*"):
        for run_id in run_ids:
            _remove(above / run_id)


def remove_forgotten() -> None:
    """Remove what workers have left of runs for which none has worked for ``KEPT_SECONDS``."""
    for lock in nodes_directory().glob("*/*/state/lock"):
        with contextlib.suppress(OSError):
            # a worker writes its name to the lock when it begins
            if time.time() - lock.stat().st_mtime > KEPT_SECONDS:
                _remove(lock.parent.parent)


def _remove(root: Path) -> None:
    if root.is_dir():
        with contextlib.suppress(HarvestError), run_lock(RunPaths(root=root).state / "lock"):
            shutil.rmtree(root, ignore_errors=True)


def store(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``. Raises StorageError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
