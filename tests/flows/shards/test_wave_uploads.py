"""Waves go up one by one, before the whole of their shard. One that hangs or fails does not hold up the others.

What went up of a run whose machine is lost is enough to go on with.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.parameters import FlowParameters
from flows.plan_collection import plan_collection
from flows.shards.pending_tasks import PendingTasks
from flows.shards.wave_uploads import ATTEMPTS, WaveUploads
from tasks.errors import ConfigError, EngineCrashed
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import shard_dataset
from tasks.records import WAVE_STEP, RunPaths
from tasks.storage.download import download_run, mark_download
from tasks.storage.upload import RunUploader, upload_run
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.harvest_command import Tell
from tests.support.patience import until
from tests.support.s3_servers import Bucket
from tests.support.wave_pool import WavePool, collect, rows_of, wave_plan

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
    plan: RunPlan, bucket: Bucket, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    refused = Fault(kind="503", method="PUT", path=FIRST_WAVE, times=99)
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
        assert f"shard 0 of {plan.run_id} goes up when its wave" in caplog.text

        def run_callbacks() -> bool:
            pending.run_callbacks()
            return not len(pending)

        until(run_callbacks, "the waves have been sent or have failed")
        assert called == [first.index]
        uploads.hand_over(plan, second, lambda: called.append(second.index))
    assert called == [first.index, second.index]
    stored = {key.partition(f"/{plan.run_id}/")[2] for key in bucket.listing()}
    assert {"rollouts/shard-00001.parquet", "scores/shard-00001.parquet"} <= stored
    # the whole shard tries again, and longer
    assert refused.hits == ATTEMPTS
    assert not any("shard-00000" in name and name.startswith("rollouts") for name in stored)


@pytest.mark.parametrize("store", ["s3", "directory"])
def test_a_run_goes_on_elsewhere_with_what_an_unfinished_upload_holds(
    store: str, plan: RunPlan, tmp_path: Path, tell: Tell, request: pytest.FixtureRequest
) -> None:
    whole = rows_of(plan)
    bucket: Bucket | None = request.getfixturevalue("bucket") if store == "s3" else None
    url = bucket.url if bucket else f"{tmp_path / 'store'}"
    waves = ["", "-w01", "-w02"]
    went_up = [f"{folder}/shard-00000{wave}.parquet" for wave in waves for folder in ("rollouts", "scores")]
    # of another shard the scores were on their way
    uploader = RunUploader(plan.paths.root, url)
    uploader.upload_files([*went_up, "rollouts/shard-00001.parquet", "questions/shard-00000.parquet"])
    damaged = f"{plan.run_id}/rollouts/shard-00000-w01.parquet"
    if bucket is not None:
        key = f"{url.removeprefix(f's3://{bucket.name}/')}/{damaged}"
        bucket.overwrite_keeping_metadata(key, bytes(len(bucket.get(key))))
    else:
        # its end, with the columns, is whole
        with Path(url, damaged).open("r+b") as file:
            file.write(bytes(1_000))

    refused = tell("download", f"{url}/{plan.run_id}", tmp_path / "copy")
    assert (refused.code, "download --unfinished brings back" in refused.stderr) == (1, True)
    said = tell("download", f"{url}/{plan.run_id}", tmp_path / "copy", "--unfinished")
    assert said.code == 0, said.stderr
    here = replace(plan, paths=RunPaths(root=tmp_path / "copy" / plan.run_id))
    lost = {"rollouts/shard-00000-w01.parquet", "scores/shard-00000-w01.parquet"}
    brought = {*went_up, "rollouts/shard-00001.parquet"} - lost
    assert {f"{path.parent.name}/{path.name}" for path in here.paths.root.rglob("*.parquet")} == brought
    assert {line.split()[2] for line in said.stdout.splitlines() if line.startswith("left out: ")} == lost

    pool = WavePool()
    collect(here, pool)
    assert rows_of(here) == whole
    # the wave after the one that is lost is what its scores ask for
    assert WAVE_STEP in pool.waves
    assert not {0, 2 * WAVE_STEP, 1} & {*pool.waves}
    assert upload_run(here.paths.root, url).complete
    again = tell("download", f"{url}/{plan.run_id}", tmp_path / "more", "--unfinished")
    assert (again.code, "Leave out --unfinished" in again.stderr) == (2, True)
    over = tell("download", f"{url}/{plan.run_id}", tmp_path / "copy")
    assert over.code == 0, over.stderr


def test_a_download_that_was_not_finished_is_not_taken_for_a_run(plan: RunPlan, tmp_path: Path) -> None:
    upload_run(plan.paths.root, str(tmp_path / "store"))
    copy = download_run(str(tmp_path / "store" / plan.run_id), tmp_path / "copy")
    here = replace(plan, paths=RunPaths(root=copy))
    assert plan_collection(here, FlowParameters()) == (here,)
    # none of its files is on record
    here.paths.manifest.unlink()
    with pytest.raises(
        ConfigError, match=r"Give its command again, harvest download /\S+ \S+, or remove the directory"
    ):
        plan_collection(here, FlowParameters())
    mark_download(copy, str(tmp_path / "store" / plan.run_id), ())
    with pytest.raises(ConfigError, match=r"harvest download /\S+ \S+ --unfinished, or remove the directory"):
        plan_collection(here, FlowParameters())
