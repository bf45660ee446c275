"""Brings the rollouts of a shard from a node: in chunks, checked by their sha256, published by one rename."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import polars as pl

from tasks.files import atomic_path
from tasks.fleet.node_status import MadeShard
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, record_rollouts
from tasks.plan.waves import keys_of
from tasks.records import ROLLOUT_KEY, are_rollouts, wave_of
from tasks.storage.published import read_wave

CHUNK_BYTES = 4 << 20


class DamagedShard(Exception):
    """What came from a node is not the shard; the message says in which way."""


def fetch_shard(plan: RunPlan, shard: Shard, made: MadeShard, read: Callable[[int, int], bytes]) -> None:
    """Publish the rollouts that ``read``, given an offset and a size, returns in chunks; remove the shard's journal.

    Raises DamagedShard when they are not those of the shard, StorageError, and what ``read`` raises.
    """
    path = plan.paths.rollouts(shard.index)
    digest = hashlib.sha256()
    with atomic_path(path) as temporary:
        with temporary.open("wb") as copy:
            for offset in range(0, made.size, CHUNK_BYTES):
                data = read(offset, CHUNK_BYTES)
                digest.update(data)
                copy.write(data)
        if digest.hexdigest() != made.sha256:
            raise DamagedShard(f"its sha256 is {digest.hexdigest()} here and {made.sha256} there")
        if wrong := check_rollouts(temporary, plan, shard):
            raise DamagedShard(wrong)
    record_rollouts(plan.paths, shard.index)
    plan.paths.journal(shard.index).unlink(missing_ok=True)


def check_rollouts(path: Path, plan: RunPlan, shard: Shard) -> str | None:
    """Return what is wrong with the columns, number or keys of a shard's rollouts; None when they are right."""
    try:
        lazy = pl.scan_parquet(path, glob=False)
        if not are_rollouts(lazy.collect_schema()):
            return "its columns are not those of rollouts"
        found = lazy.select("run_id", *ROLLOUT_KEY).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        return f"it cannot be read: {error}"
    if found.height != shard.num_rollouts:
        return f"it has {found.height} rows instead of {shard.num_rollouts}"
    if not found.equals(_expected_keys(plan, shard)):
        return "its rollouts are not those of this shard"
    return None


def _expected_keys(plan: RunPlan, shard: Shard) -> pl.DataFrame:
    if wave_of(shard.index):
        asked = read_wave(plan.paths.questions(shard.index), ["example_id", "arm_ids", "first_sample", "end_sample"])
    else:
        asked = plan.questions.slice(shard.index * plan.shard_size, shard.num_questions).with_columns(
            arm_ids=pl.lit([arm.id for arm in plan.arms.arms]),
            first_sample=0,
            end_sample=plan.config.sampling.samples_per_arm,
        )
    return keys_of(asked).select(pl.lit(plan.run_id).alias("run_id"), pl.all())
