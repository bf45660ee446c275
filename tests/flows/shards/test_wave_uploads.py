"""Waves go up one by one, before the whole of their shard. One that hangs or fails does not hold up the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.shards.pending_tasks import PendingTasks
from flows.shards.wave_uploads import WaveUploads
from tasks.errors import EngineCrashed
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import shard_dataset
from tasks.records import WAVE_STEP
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.patience import until
from tests.support.s3_servers import Bucket
from tests.support.wave_pool import WavePool, collect, wave_plan

FIRST_WAVE = r"rollouts/shard-00000\.parquet"


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """A run that has all of its waves."""
    made = wave_plan(tmp_path, samples_per_arm=2, max_samples_per_arm=7, sample_until="mixed")
    collect(made, WavePool())
    return made


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(bucket.server.endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


def test_a_flow_that_fails_does_not_wait_for_an_upload_that_hangs(
    plan: RunPlan, bucket: Bucket, proxy: FaultProxy
) -> None:
    hang = Fault(kind="hang", method="PUT", path=FIRST_WAVE, times=99)
    proxy.faults.append(hang)

    def fail() -> None:
        with WaveUploads(PendingTasks(lambda: None), bucket.url) as uploads:
            uploads.add(plan, 0)
            uploads.add(plan, 1)
            until(lambda: hang.hits, "the first wave is being sent")
            raise EngineCrashed("it ended")

    with pytest.raises(EngineCrashed):
        fail()
    # the store never answered
    assert proxy.has(hang)
    assert not any("shard-00001" in path for path in proxy.sent())


def test_the_whole_shard_follows_its_wave_and_a_failure_of_one_leaves_the_others(
    plan: RunPlan, bucket: Bucket, proxy: FaultProxy
) -> None:
    refused = Fault(kind="403", method="PUT", path=FIRST_WAVE, times=99)
    proxy.faults.append(refused)
    pending, called = PendingTasks(lambda: None), list[int]()
    with WaveUploads(pending, bucket.url) as uploads:
        uploads.add(plan, 0)
        uploads.add(plan, WAVE_STEP)
        uploads.add(plan, 1)
        first, second, _ = shard_dataset(plan)
        # its first wave is being sent, and its second one is no more: it goes up with the whole
        uploads.hand_over(plan, first, lambda: called.append(first.index))
        assert called == []

        def run_callbacks() -> bool:
            pending.run_callbacks()
            return not len(pending)

        until(run_callbacks, "the waves have been sent or have failed")
        assert called == [first.index]
        uploads.hand_over(plan, second, lambda: called.append(second.index))
    assert called == [first.index, second.index]
    stored = {key.partition(f"/{plan.run_id}/")[2] for key in bucket.listing()}
    assert {"rollouts/shard-00001.parquet", "scores/shard-00001.parquet"} <= stored
    assert refused.hits
    assert not any("shard-00000" in name and name.startswith("rollouts") for name in stored)
