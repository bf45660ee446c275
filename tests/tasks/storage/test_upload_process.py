"""An upload as a process: what a signal leaves behind, and how much memory it takes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tasks.storage.filesystems import TransferSettings
from tasks.storage.published import record_published
from tasks.storage.upload import upload_run
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.patience import await_exit, until
from tests.support.s3_servers import SMALLEST_PART, Bucket
from tests.support.synthetic import write_run

PART = SMALLEST_PART
PARTS = TransferSettings(part_bytes=PART, base_delay_s=0.01)


def test_sigterm_aborts_the_open_multipart_uploads_of_the_run(bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    noise = pl.DataFrame({"noise": [os.urandom(2 * PART + 1000)]})
    noise.write_parquet(run.telemetry, compression="uncompressed")
    client = bucket.server.client()
    theirs = client.create_multipart_upload(Bucket=bucket.name, Key="team/rollouts/other/telemetry.parquet")
    with fault_proxy(bucket.server.endpoint) as proxy:
        proxy.faults.append(Fault(kind="slow", method="PUT", path="partNumber=[23]", times=99))
        process = start_upload(run.root, bucket, proxy.endpoint)
        wait_for_last_part(proxy, process)
        assert len(bucket.open_uploads()) == 2
        process.send_signal(signal.SIGTERM)
        assert await_exit(process) == 128 + signal.SIGTERM
    assert bucket.open_uploads() == [theirs["Key"]]
    assert "team/rollouts/run/_SUCCESS" not in bucket.listing()

    assert upload_run(run.root, bucket.url, transfer=PARTS).complete


IN_A_THREAD = f"""
import contextvars, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tasks.storage.filesystems import TransferSettings
from tasks.storage.transfer_scope import TransferScope
from tasks.storage.upload import upload_run
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
with ThreadPoolExecutor() as pool, TransferScope():
    context = contextvars.copy_context()
    transfer = TransferSettings(part_bytes={PART})
    pool.submit(context.run, upload_run, Path(sys.argv[1]), sys.argv[2], transfer=transfer).result()
"""


@pytest.mark.parametrize("reachable", [True, False], ids=["a slow store", "a store that hangs"])
def test_sigterm_ends_the_uploads_of_all_threads(reachable: bool, bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    noise = pl.DataFrame({"noise": [os.urandom(2 * PART + 1000)]})
    noise.write_parquet(run.telemetry, compression="uncompressed")
    with fault_proxy(bucket.server.endpoint) as proxy:
        proxy.faults.append(Fault(kind="hang", method="PUT", path="partNumber", times=99))
        if not reachable:
            proxy.faults.append(Fault(kind="hang", method="DELETE", times=99))
        process = start_upload(run.root, bucket, proxy.endpoint, IN_A_THREAD)
        wait_for_last_part(proxy, process)
        process.send_signal(signal.SIGTERM)
        assert await_exit(process) == 128 + signal.SIGTERM
    assert len(bucket.open_uploads()) == (0 if reachable else 1)

    assert upload_run(run.root, bucket.url, transfer=PARTS).complete
    assert bucket.open_uploads() == []


@pytest.mark.slow
def test_eight_large_shards_at_once_stay_under_500_mb(bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=8, questions_per_shard=1, arms=1)
    # with the 160 MB of the process itself more in all than the limit, so that the bound keeps below it, not the size
    noise = pl.DataFrame({"noise": [os.urandom(48_000_000)]})
    for index in range(8):
        noise.write_parquet(run.rollouts(index), compression="uncompressed")
        record_published(run.rollouts(index))
    script = (
        "import sys; from pathlib import Path; from concurrent.futures import ThreadPoolExecutor\n"
        "from tasks.storage.upload import RunUploader\n"
        "def up(i):\n"
        "    RunUploader(Path(sys.argv[1]), sys.argv[2]).upload_files([f'rollouts/shard-{i:05d}.parquet'])\n"
        "with ThreadPoolExecutor(8) as pool: list(pool.map(up, range(8)))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", script, str(run.root), bucket.url]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
    assert int(output) * 1024 < 500_000_000


IN_THE_MAIN_THREAD = (
    "import sys; from pathlib import Path; from tasks.storage.upload import upload_run\n"
    "from tasks.storage.filesystems import TransferSettings\n"
    f"upload_run(Path(sys.argv[1]), sys.argv[2], transfer=TransferSettings(part_bytes={PART}))"
)


def start_upload(
    run_dir: Path, bucket: Bucket, endpoint: str, script: str = IN_THE_MAIN_THREAD
) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint}
    with (run_dir.parent / "upload.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(run_dir), bucket.url], env=environment, stdout=log, stderr=log
        )


def wait_for_last_part(proxy: FaultProxy, process: "subprocess.Popen[bytes]") -> None:
    until(lambda: any("partNumber=3" in path for _, path, _ in proxy.requests), "the third part", alive=[process])
