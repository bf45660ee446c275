"""Prefect's part of the stages: which errors are retried, what tasks are given, what an interrupt leaves."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_type_hints

import polars as pl
import pytest
from prefect import Task, flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed

from flows.reporting.flow_failures import explain_failures
from flows.shards import stages
from flows.shards.shard_waves import ShardWaves
from flows.shards.stages import is_retryable, upload, upload_shard
from tasks.comparison.verdict import Tier
from tasks.errors import ConfigError, EngineCrashed, UploadError
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.storage.filesystems import TransferSettings
from tasks.storage.upload import upload_run
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.patience import until
from tests.support.s3_servers import SMALLEST_PART, Bucket
from tests.support.synthetic import write_run


@pytest.fixture
def server(prefect_api: str) -> Iterator[str]:
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UploadError("no answer", retryable=True), True),
        (UploadError("access denied"), False),
        (ConfigError("no such bucket"), False),
        (EngineCrashed("it ended"), True),
        (KeyError("a bug"), False),
    ],
)
def test_only_retryable_errors_are_retried(error: Exception, again: bool) -> None:
    assert is_retryable(None, None, Failed(data=error)) is again


def test_stages_that_use_remote_storage_have_retries() -> None:
    for step in (upload_shard, upload):
        assert (step.retries, step.retry_condition_fn) == (4, is_retryable), step.name


def test_no_task_parameter_can_hold_a_secret() -> None:
    plain = (RunPlan, Sequence[RunPlan], Shard, ShardWaves, Path, str, str | None, Tier, float)
    for step in (value for value in vars(stages).values() if isinstance(value, Task)):
        taken = {name: kind for name, kind in get_type_hints(step.fn).items() if name != "return"}
        assert {name: kind for name, kind in taken.items() if kind not in plain} == {}, step.name


def test_an_interrupted_flow_stops_its_uploads_and_leaves_none_open(
    server: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", shards=1)
    noise = random.Random(7).randbytes(2 * SMALLEST_PART)
    pl.DataFrame({"noise": [noise]}).write_parquet(run.telemetry, compression="uncompressed")

    @task
    def send() -> None:
        upload_run(run.root, bucket.url, transfer=TransferSettings(part_bytes=SMALLEST_PART))

    @flow
    def interrupted() -> None:
        with explain_failures():
            send.submit()
            until(lambda: any("partNumber" in path for _, path, _ in proxy.requests), "the upload of a part")
            raise KeyboardInterrupt

    with fault_proxy(bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults.append(Fault(kind="hang", method="PUT", path="partNumber", times=99))
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert bucket.open_uploads() == []
