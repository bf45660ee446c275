"""A shard comes in chunks, and is published only when all of it is right."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.fleet.node_status import MadeShard
from tasks.fleet.shard_transfer import CHUNK_BYTES, DamagedShard, fetch_shard
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import shard_dataset
from tasks.plan.waves import find_remaining
from tasks.records import ROLLOUT_SCHEMA
from tests.support.fake_profile import write_fake_profile


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    given = {"profile": str(write_fake_profile(tmp_path)), "questions": 4, "shard_size": 2}
    return plan_run(config_from_parameters(given), tmp_path / "runs")


def file_of(plan: RunPlan, *, noise: int = 1, first: int = 0, columns: int = 99) -> bytes:
    """The file of the shard that begins at question ``first``, with completions of ``noise`` characters."""
    keys = [
        {
            "run_id": plan.run_id,
            "example_id": example,
            "arm_id": arm.id,
            "sample_index": 0,
            "completion": f"{n:x}" * noise,
        }
        for example in plan.questions["example_id"][first : first + 2]
        for n, arm in enumerate(plan.arms.arms)
    ]
    written = io.BytesIO()
    frame = pl.DataFrame(keys, schema=ROLLOUT_SCHEMA)
    frame.select(frame.columns[:columns]).write_parquet(written, compression="uncompressed")
    return written.getvalue()


def fetch(plan: RunPlan, data: bytes, come: bytes, asked: list[tuple[int, int]]) -> None:
    """Fetch the first shard, which is ``data`` on the node; what comes is ``come``."""

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return come[offset : offset + size]

    sha256 = hashlib.sha256(data).hexdigest()
    result = ShardResult(index=0, num_rollouts=16, num_errors=0, num_resumed=0)
    made = MadeShard(run_id=plan.run_id, result=result, size=len(data), sha256=sha256)
    fetch_shard(plan, shard_dataset(plan)[0], made, read)


def test_a_shard_comes_in_chunks_and_its_journal_goes(plan: RunPlan) -> None:
    data, asked = file_of(plan, noise=1 << 20), list[tuple[int, int]]()
    journal = plan.paths.journal(0)
    journal.parent.mkdir(parents=True)
    journal.touch()
    fetch(plan, data, data, asked)
    assert asked == [(offset, CHUNK_BYTES) for offset in range(0, len(data), CHUNK_BYTES)]
    assert len(asked) > 1
    assert plan.paths.rollouts(0).read_bytes() == data
    assert not journal.exists()
    assert [shard.index for shard in find_remaining(plan, shard_dataset(plan)).to_generate] == [1]


def cut(plan: RunPlan) -> tuple[bytes, bytes]:
    return file_of(plan), file_of(plan)[:-9]


def other_bytes(plan: RunPlan) -> tuple[bytes, bytes]:
    return file_of(plan), file_of(plan)[:-1] + b"?"


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (cut, "its sha256 is"),
        (other_bytes, "its sha256 is"),
        (lambda plan: 2 * (b"no Parquet",), "it cannot be read"),
        (lambda plan: 2 * (file_of(plan, columns=9),), "its columns are not those of rollouts"),
        (lambda plan: 2 * (file_of(plan, first=3),), "it has 8 rows instead of 16"),
        (lambda plan: 2 * (file_of(plan, first=2),), "its rollouts are not those of this shard"),
    ],
)
def test_what_is_not_the_shard_is_not_published(
    plan: RunPlan, damaged: Callable[[RunPlan], tuple[bytes, bytes]], told: str
) -> None:
    with pytest.raises(DamagedShard, match=told):
        fetch(plan, *damaged(plan), [])
    assert list(plan.paths.rollouts(0).parent.iterdir()) == []
