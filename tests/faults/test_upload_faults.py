"""An upload over failing networks and servers completes, or raises a clear error and writes no _SUCCESS."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import UploadError
from tasks.records import RunPaths
from tasks.storage.download import download_run
from tasks.storage.filesystems import TransferSettings
from tasks.storage.published import record_published
from tasks.storage.run_files import published_files
from tasks.storage.upload import upload_run
from tasks.storage.verify import verify_upload
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.patience import until
from tests.support.s3_servers import SECRET_KEY, SMALLEST_PART, Bucket
from tests.support.synthetic import publish_shard, write_run
from tests.support.upload_process import start_upload

PART = SMALLEST_PART
QUICK = TransferSettings(part_bytes=PART, attempts=6, base_delay_s=0.01, max_delay_s=0.05, read_timeout_s=2)
SUCCESS = "team/rollouts/run/_SUCCESS"


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the bucket's server. The environment names it as the endpoint."""
    with fault_proxy(bucket.server.endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """Two shards and one file of three parts."""
    paths = write_run(tmp_path / "run", shards=2, questions_per_shard=2, arms=2)
    noise = random.Random(7).randbytes(2 * PART + 1000)
    pl.DataFrame({"noise": [noise]}).write_parquet(paths.telemetry, compression="uncompressed")
    return paths


HEALED = {
    "one request each": [
        Fault(kind="500", method="PUT", path="rollouts/shard-00001", times=3),
        Fault(kind="503", method="HEAD", times=3),
        Fault(kind="500", method="GET", path="list-type", times=2),
        Fault(kind="reset", method="PUT", path="scores/", times=2),
        Fault(kind="reset", method="GET", path="config.json", times=2),
        Fault(kind="hang", method="PUT", path="questions/"),
        Fault(kind="lost_response", method="PUT", path="manifest.json"),
        Fault(kind="lost_response", method="PUT", path="_SUCCESS"),
        Fault(kind="corrupt", method="PUT", path="rollouts/shard-00000"),
    ],
    "SlowDown on everything for a while": [Fault(kind="503", method="PUT", times=3)],
    "parts": [
        Fault(kind="lost_response", method="POST", path="uploads"),
        Fault(kind="hang", method="PUT", path="partNumber=1"),
        Fault(kind="reset", method="PUT", path="partNumber=2", times=3),
        Fault(kind="lost_response", method="PUT", path="partNumber=3", times=2),
        Fault(kind="lost_response", method="POST", path="uploadId"),
    ],
    "damage on the way, and lost answers to shards": [
        Fault(kind="corrupt", method="PUT", path="partNumber=2"),
        Fault(kind="corrupt", method="PUT", path="manifest.json"),
        Fault(kind="corrupt", method="PUT", path="_SUCCESS"),
        Fault(kind="lost_response", method="PUT", path="rollouts/", times=2),
    ],
}
"""Faults that an upload meets, each of another request."""


@pytest.mark.parametrize("name", HEALED)
def test_an_upload_completes_after_passing_faults(name: str, bucket: Bucket, proxy: FaultProxy, run: RunPaths) -> None:
    faults = [replace(fault) for fault in HEALED[name]]
    proxy.faults.extend(faults)

    record = upload_run(run.root, bucket.url, transfer=QUICK)

    assert [fault for fault in faults if not fault.hits] == [], "they never happened"
    assert record.complete
    check_complete(bucket, run)


def test_a_multipart_upload_whose_last_answer_was_lost_is_complete(
    bucket: Bucket, proxy: FaultProxy, run: RunPaths
) -> None:
    proxy.faults += [
        Fault(kind="lost_response", method="POST", path="uploadId"),
        Fault(kind="404", method="POST", path="uploadId", times=99),
    ]
    assert upload_run(run.root, bucket.url, transfer=QUICK).complete
    check_complete(bucket, run)


LASTING = {
    "500": Fault(kind="500", method="PUT", path="rollouts/shard-00001", times=99),
    "503": Fault(kind="503", method="PUT", path="partNumber=2", times=99),
    "403": Fault(kind="403", method="PUT", path="rollouts/shard-00001", times=99),
    "reset": Fault(kind="reset", method="PUT", path="rollouts/shard-00001", times=99),
    "vanished": Fault(kind="404", method="POST", path="uploadId", times=99),
    "lost": Fault(kind="lost_response", method="POST", path="uploads", times=99),
    "damaged shard": Fault(kind="corrupt", method="PUT", path="scores/shard-00000", times=99),
    "damaged part": Fault(kind="corrupt", method="PUT", path="partNumber=1", times=99),
    "damaged manifest": Fault(kind="corrupt", method="PUT", path="manifest.json", times=99),
    "damaged _SUCCESS": Fault(kind="corrupt", method="PUT", path="_SUCCESS", times=99),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_is_a_clear_error_and_the_next_upload_completes(
    name: str, bucket: Bucket, proxy: FaultProxy, run: RunPaths
) -> None:
    fault = replace(LASTING[name])
    proxy.faults.append(fault)

    with pytest.raises(UploadError) as caught:
        upload_run(run.root, bucket.url, transfer=QUICK)

    assert "team/rollouts/run" in str(caught.value)
    assert SECRET_KEY not in str(caught.value)
    assert SUCCESS not in bucket.listing()
    assert not verify_upload(f"{bucket.url}/run").ok
    if fault.kind == "403":
        assert fault.hits == 1
    assert caught.value.retryable is (fault.kind not in ("403", "corrupt"))

    proxy.faults.clear()
    assert upload_run(run.root, bucket.url, transfer=QUICK).complete
    check_complete(bucket, run)


def test_verify_names_damaged_objects(bucket: Bucket, run: RunPaths, tmp_path: Path) -> None:
    upload_run(run.root, bucket.url, transfer=QUICK)
    key = "team/rollouts/run/rollouts/shard-00001.parquet"
    body = bytearray(bucket.get(key))
    body[len(body) // 2] ^= 1
    bucket.overwrite_keeping_metadata(key, bytes(body))
    client = bucket.server.client()
    client.delete_object(Bucket=bucket.name, Key="team/rollouts/run/scores/shard-00000.parquet")
    client.put_object(Bucket=bucket.name, Key="team/rollouts/run/questions/shard-00000.parquet", Body=b"short")

    report = verify_upload(f"{bucket.url}/run")
    assert [problem.split()[0] for problem in report.problems] == [
        "questions/shard-00000.parquet",
        "rollouts/shard-00001.parquet",
        "scores/shard-00000.parquet",
    ]
    with pytest.raises(UploadError, match=r"Upload the run again|does not exist|shorter"):
        download_run(f"{bucket.url}/run", tmp_path / "copies")
    assert not (tmp_path / "copies" / "run" / "rollouts" / "shard-00001.parquet").exists()
    assert not (tmp_path / "copies" / "run" / "manifest.json").exists()

    assert upload_run(run.root, bucket.url, transfer=QUICK).files_sent == 3
    check_complete(bucket, run)


def test_a_download_survives_faults_and_resumes(
    bucket: Bucket, proxy: FaultProxy, run: RunPaths, tmp_path: Path
) -> None:
    upload_run(run.root, bucket.url, transfer=QUICK)
    proxy.faults += [
        Fault(kind="reset", method="GET", path="shard-00000", times=3),
        Fault(kind="503", method="GET", path="telemetry", times=3),
        Fault(kind="500", method="GET", path="scores/shard-00001", times=99),
    ]
    with pytest.raises(UploadError, match="scores/shard-00001"):
        download_run(f"{bucket.url}/run", tmp_path / "copies", transfer=QUICK)
    proxy.faults.clear()
    proxy.requests.clear()
    here = {path.name for path in (tmp_path / "copies").rglob("*.parquet")}
    copy = download_run(f"{bucket.url}/run", tmp_path / "copies", transfer=QUICK)

    assert {name: (copy / name).read_bytes() for name in published_files(run.root)} == {
        name: (run.root / name).read_bytes() for name in published_files(run.root)
    }
    assert "telemetry.parquet" in here
    assert not any("telemetry" in path for path in proxy.sent("GET"))


def test_a_download_over_an_older_one_has_no_manifest_until_it_is_whole(
    bucket: Bucket, proxy: FaultProxy, run: RunPaths, tmp_path: Path
) -> None:
    upload_run(run.root, bucket.url, transfer=QUICK)
    copy = download_run(f"{bucket.url}/run", tmp_path / "copies", transfer=QUICK)
    for index in range(2):
        scores = pl.read_parquet(run.scores(index)).with_columns(scorer_version=pl.lit("2"))
        publish_shard(scores, run.scores(index))
    upload_run(run.root, bucket.url, transfer=QUICK)

    proxy.faults.append(Fault(kind="403", method="GET", path="scores/shard-00001", times=99))
    with pytest.raises(UploadError, match="scores/shard-00001"):
        download_run(f"{bucket.url}/run", tmp_path / "copies", transfer=QUICK)
    assert not (copy / "manifest.json").exists()
    proxy.faults.clear()
    download_run(f"{bucket.url}/run", tmp_path / "copies", transfer=QUICK)
    assert (copy / "manifest.json").read_bytes() == run.manifest.read_bytes()


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.soak)])
def test_uploads_that_are_killed_send_no_file_twice_and_complete(
    kills: int, bucket: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    fresh = write_run(tmp_path / "fresh" / "run", shards=20, questions_per_shard=2, arms=2).root
    for index in range(5):
        noise = random.Random(index).randbytes(2 * PART + 1000)
        path = RunPaths(root=fresh).rollouts(index)
        pl.DataFrame({"noise": [noise]}).write_parquet(path, compression="uncompressed")
        record_published(path)
    moments = random.Random(42)
    run = RunPaths(root=shutil.copytree(fresh, tmp_path / "0" / "run"))
    cut_short = 0
    for number in range(1, kills + 1):
        before = set(confirmed(bucket))
        proxy.requests.clear()
        # the proxy holds every request after so many, before it passes them on or before it answers
        moment = Fault(kind=moments.choice(("slow", "late")), skip=moments.randrange(60), times=10**6)
        if kills > 6:
            # or lets them go on slowly, so that the kill comes between them
            moment.seconds = moments.choice((moment.seconds, moments.uniform(0, 0.1)))
        proxy.faults.append(moment)
        upload_and_kill(run.root, bucket, lambda moment=moment: moment.hits > moment.skip)
        proxy.faults.clear()
        proxy.wait_until_idle()
        again = {path for path in proxy.sent("PUT") if path.split("/", 2)[2] in before}
        assert again <= {f"/{bucket.name}/team/rollouts/run/manifest.json", f"/{bucket.name}/{SUCCESS}"}
        if SUCCESS in bucket.listing():
            check_complete(bucket, run)
            # the next kills need another upload
            run = RunPaths(root=shutil.copytree(fresh, tmp_path / str(number) / "run"))
            bucket = replace(bucket, name=f"{bucket.name}-{number}")
            bucket.server.client().create_bucket(Bucket=bucket.name)
        else:
            cut_short += 1
    assert cut_short >= kills // 3, "hardly any kill came before the end"

    before = set(confirmed(bucket))
    proxy.requests.clear()
    assert upload_run(run.root, bucket.url, transfer=QUICK).complete
    assert not {path.split("/", 2)[2] for path in proxy.sent("PUT")} & {
        key for key in before if key.endswith("parquet")
    }
    check_complete(bucket, run)


@pytest.mark.parametrize(
    "moment",
    [
        Fault(kind="late", method="POST", path="uploads"),
        Fault(kind="slow", method="PUT", path="partNumber=2"),
        Fault(kind="slow", method="POST", path="uploadId"),
    ],
    ids=["before it knows the id", "between parts", "before the end"],
)
def test_a_kill_within_a_multipart_upload_leaves_no_orphan(
    moment: Fault, bucket: Bucket, proxy: FaultProxy, run: RunPaths
) -> None:
    moment = replace(moment)
    proxy.faults.append(moment)
    theirs = {"Bucket": bucket.name, "Key": "team/rollouts/run-2/telemetry.parquet"}
    bucket.server.client().create_multipart_upload(**theirs)
    upload_and_kill(run.root, bucket, lambda: moment.hits > 0 and len(bucket.open_uploads()) == 2)
    proxy.faults.clear()
    proxy.wait_until_idle()
    assert len(bucket.open_uploads()) == 2

    assert upload_run(run.root, bucket.url, transfer=QUICK).complete
    assert bucket.open_uploads() == [theirs["Key"]]


def check_complete(bucket: Bucket, run: RunPaths) -> None:
    """An independent client finds every byte, and nothing half done."""
    base = "team/rollouts/run"
    assert SUCCESS in bucket.listing()
    for name in published_files(run.root):
        assert bucket.get(f"{base}/{name}") == (run.root / name).read_bytes(), name
    assert bucket.open_uploads() == []
    assert verify_upload(f"{bucket.url}/run", QUICK).ok


def confirmed(bucket: Bucket) -> list[str]:
    return [key for key in bucket.listing() if not key.endswith(("manifest.json", "_SUCCESS"))]


def upload_and_kill(run_dir: Path, bucket: Bucket, reached: Callable[[], bool]) -> None:
    """Upload in a process of its own, and kill it when ``reached`` says so, or when it is done by then."""
    process = start_upload(run_dir, bucket.url, TransferSettings(part_bytes=PART))
    until(
        lambda: reached() or not process.is_alive(),
        "the moment of the kill, or the end of the upload",
        logs=[run_dir.parent / "upload.log"],
    )
    process.kill()
    process.join()
