"""An upload is complete and verified, or readers can see that it is not."""

import hashlib
import json
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError, UploadError
from tasks.files import publish_json
from tasks.locks import upload_lock
from tasks.records import WAVE_STEP, RunPaths
from tasks.storage.download import download_run
from tasks.storage.filesystems import TransferSettings
from tasks.storage.published import forget_published, record_published
from tasks.storage.run_files import published_files, run_fingerprint
from tasks.storage.transfer_errors import TransferStoppedError
from tasks.storage.upload import RunUploader, upload_run
from tasks.storage.upload_record import read_upload_record
from tasks.storage.verify import verify_upload
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.patience import pause, until
from tests.support.s3_servers import ACCESS_KEY, SECRET_KEY, Bucket, S3Server, make_bucket
from tests.support.synthetic import publish_shard, write_run

PART = 5 * 2**20
PARTS = TransferSettings(part_bytes=PART, base_delay_s=0.01)
WAITS = "waiting for another upload"


def contents(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in published_files(run_dir)}


def add_large_file(run: RunPaths, size: int = 2 * PART + 1000) -> None:
    """A published file that needs three parts."""
    pl.DataFrame({"noise": [os.urandom(size)]}).write_parquet(run.telemetry, compression="uncompressed")


def rescore(run: RunPaths, index: int) -> None:
    frame = pl.read_parquet(run.scores(index))
    publish_shard(frame.with_columns(scorer_version=pl.lit("2")), run.scores(index))


def check_round_trip(run: RunPaths, url: str, directory: Path) -> None:
    record = upload_run(run.root, url)
    report = verify_upload(f"{url}/{run.run_id}")
    copy = download_run(f"{url}/{run.run_id}", directory)

    expected = contents(run.root)
    assert (record.complete, record.files_sent) == (True, len(expected))
    assert (report.ok, report.files) == (True, len(expected))
    assert contents(copy) == expected
    assert (copy / "manifest.json").read_bytes() == run.manifest.read_bytes()


def test_twenty_shards_are_uploaded_and_downloaded_byte_for_byte(any_bucket: Bucket, tmp_path: Path) -> None:
    check_round_trip(write_run(tmp_path / "run", shards=20), any_bucket.url, tmp_path / "copies")


def test_a_prefix_in_a_bucket_is_taken_literally(any_bucket: Bucket, tmp_path: Path) -> None:
    prefix = "a[1] b?c#d%20e*/::~ünï"
    run = write_run(tmp_path / "run", shards=2)
    check_round_trip(run, f"s3://{any_bucket.name}/{prefix}", tmp_path / "copies")
    expected = {f"{prefix}/run/{name}" for name in (*published_files(run.root), "manifest.json", "_SUCCESS")}
    assert set(any_bucket.listing()) == expected


def test_upload_over_tls_with_a_private_authority(tls_bucket: Bucket, tmp_path: Path) -> None:
    check_round_trip(write_run(tmp_path / "run", shards=20), tls_bucket.url, tmp_path / "copies")


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_any_fsspec_target(scheme: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=3)
    url = f"{scheme}{tmp_path}/bucket/prefix"
    check_round_trip(run, url, tmp_path / "copies")

    assert upload_run(run.root, url).files_sent == 0
    run.upload_record.unlink()
    assert upload_run(run.root, url).files_sent == 0
    rescore(run, 1)
    assert upload_run(run.root, url).files_sent == 1
    assert verify_upload(f"{url}/run").ok


def test_metadata_has_each_files_hash_and_success_the_manifests(any_bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2)
    upload_run(run.root, any_bucket.url)

    base = "team/rollouts/run"
    for name, data in contents(run.root).items():
        head = any_bucket.server.client().head_object(Bucket=any_bucket.name, Key=f"{base}/{name}")
        assert head["Metadata"] == {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": str(len(data)),
            "fingerprint": run_fingerprint(run.root),
        }
    manifest = any_bucket.get(f"{base}/manifest.json")
    assert json.loads(any_bucket.get(f"{base}/_SUCCESS"))["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert {file["path"] for file in json.loads(manifest)["files"]} == set(contents(run.root))


def test_shards_are_uploaded_before_others_are_generated(bucket: Bucket, tmp_path: Path) -> None:
    finished = write_run(tmp_path / "finished" / "run", shards=3)
    run = RunPaths(root=tmp_path / "run")
    base = "team/rollouts/run"

    for step in ("questions", 0, 1, 2):
        names = [name for name in published_files(finished.root) if name.startswith("questions") or name[0] == "c"]
        if isinstance(step, int):
            names = [f"{folder}/shard-{step:05d}.parquet" for folder in ("rollouts", "scores")]
        for name in names:
            (run.root / name).parent.mkdir(parents=True, exist_ok=True)
            (run.root / name).write_bytes((finished.root / name).read_bytes())
            record_published(run.root / name)
        with RunUploader(run.root, bucket.url) as uploader:
            uploader.upload_files(names)
            if step != 2:
                with pytest.raises(ConfigError, match=r"not a finished run: rollouts/shard-0000\d\.parquet is missing"):
                    uploader.finish()
        assert {f"{base}/{name}" for name in names} <= set(bucket.listing())
        assert f"{base}/_SUCCESS" not in bucket.listing()

    record = upload_run(run.root, bucket.url)
    assert (record.complete, record.files_sent) == (True, 0)
    assert verify_upload(f"{bucket.url}/run").ok


def test_a_repeated_upload_sends_nothing(any_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", shards=3)
    add_large_file(run)
    upload_run(run.root, any_bucket.url, transfer=PARTS)

    with fault_proxy(any_bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        again = upload_run(run.root, any_bucket.url, transfer=PARTS)
        assert (again.complete, again.files_sent) == (True, 0)
        run.upload_record.unlink()
        forgetful = upload_run(run.root, any_bucket.url, transfer=PARTS)
        assert (forgetful.complete, forgetful.files_sent) == (True, 0)
        assert {method for method, _, _ in proxy.requests} <= {"GET", "HEAD"}
        assert not [path for method, path, _ in proxy.requests if method == "GET" and "shard-" in path]


def test_only_missing_or_different_files_are_sent_after_success_is_deleted(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", shards=4)
    upload_run(run.root, bucket.url)
    bucket.server.client().delete_object(Bucket=bucket.name, Key="team/rollouts/run/rollouts/shard-00001.parquet")
    damaged = "team/rollouts/run/questions/shard-00003.parquet"
    bucket.overwrite_keeping_metadata(damaged, bytes(len(bucket.get(damaged))))
    rescore(run, 2)

    with fault_proxy(bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        record = upload_run(run.root, bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.server.endpoint)

    changes = [
        path.split("/run/")[1].split("?")[0] for method, path, _ in proxy.requests if method in ("PUT", "DELETE")
    ]
    assert record.files_sent == 3
    assert changes[0] == "_SUCCESS"
    assert set(changes[1:-2]) == {
        "rollouts/shard-00001.parquet",
        "questions/shard-00003.parquet",
        "scores/shard-00002.parquet",
    }
    assert changes[-2:] == ["manifest.json", "_SUCCESS"]
    assert verify_upload(f"{bucket.url}/run").ok


def test_a_destination_with_a_different_run_is_refused_and_not_changed(any_bucket: Bucket, tmp_path: Path) -> None:
    theirs = write_run(tmp_path / "a" / "run", shards=2, seed=1)
    mine = write_run(tmp_path / "b" / "run", shards=2, seed=2)
    upload_run(theirs.root, any_bucket.url)
    before = {key: any_bucket.get(key) for key in any_bucket.listing()}

    with pytest.raises(ConfigError, match="holds a different run") as caught:
        upload_run(mine.root, any_bucket.url)

    assert run_fingerprint(theirs.root) in str(caught.value)
    assert {key: any_bucket.get(key) for key in any_bucket.listing()} == before


def test_a_destination_with_other_files_is_refused_and_its_neighbours_are_not_changed(
    bucket: Bucket, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", shards=1)
    client = bucket.server.client()
    for key in ("team/rollouts/run-2/config.json", "team/rollouts/other/_SUCCESS", "team/runaway"):
        client.put_object(Bucket=bucket.name, Key=key, Body=b"theirs")
    upload_run(run.root, bucket.url)
    for key in ("team/rollouts/run-2/config.json", "team/rollouts/other/_SUCCESS", "team/runaway"):
        assert bucket.get(key) == b"theirs"

    client.put_object(Bucket=bucket.name, Key="team/rollouts/second/thesis.tex", Body=b"theirs")
    second = write_run(tmp_path / "second", shards=1)
    with pytest.raises(ConfigError, match=r"already holds 1 files \(such as thesis.tex\)"):
        upload_run(second.root, bucket.url)
    assert [key for key in bucket.listing() if "/second/" in key] == ["team/rollouts/second/thesis.tex"]


def test_success_is_not_written_beside_a_shard_of_another_run(bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    upload_run(run.root, bucket.url)
    stranger = "team/rollouts/run/rollouts/shard-00009.parquet"
    bucket.server.client().put_object(Bucket=bucket.name, Key=stranger, Body=b"x")
    assert verify_upload(f"{bucket.url}/run").problems == ("rollouts/shard-00009.parquet is not in the manifest",)

    rescore(run, 0)
    with pytest.raises(UploadError, match=r"not of this run, such as rollouts/shard-00009\.parquet"):
        upload_run(run.root, bucket.url)
    assert "team/rollouts/run/_SUCCESS" not in bucket.listing()
    assert stranger in bucket.listing()


def test_waves_that_a_shard_has_no_more_are_deleted(any_bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2)
    publish_shard(pl.read_parquet(run.rollouts(0)), run.rollouts(WAVE_STEP))
    lost, stranger = (f"rollouts/shard-0000{shard}-w01.parquet" for shard in (0, 9))
    with RunUploader(run.root, any_bucket.url) as uploader:
        uploader.upload_files([lost])
        with pytest.raises(ConfigError, match="is not a published file"):
            uploader.upload_files([stranger])
    # the shard was made again, and needed one wave
    run.rollouts(WAVE_STEP).unlink()
    forget_published(run.rollouts(WAVE_STEP))
    record = upload_run(run.root, any_bucket.url)
    assert lost not in record.files
    assert verify_upload(f"{any_bucket.url}/run").ok

    any_bucket.server.client().put_object(Bucket=any_bucket.name, Key=f"team/rollouts/run/{stranger}", Body=b"x")
    with pytest.raises(UploadError, match=f"not of this run, such as {re.escape(stranger)}"):
        upload_run(run.root, any_bucket.url)


def test_a_large_file_is_sent_in_parts_and_leaves_no_multipart_upload_open(any_bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    add_large_file(run)
    record = upload_run(run.root, any_bucket.url, transfer=PARTS)

    assert record.files["telemetry.parquet"].etag.endswith("-3")
    assert record.files["telemetry.parquet"].verified == "etag"
    assert any_bucket.get("team/rollouts/run/telemetry.parquet") == run.telemetry.read_bytes()
    assert any_bucket.open_uploads() == []
    assert list((run.state / "multipart").iterdir()) == []


def test_a_file_is_not_sent_again_for_another_part_size(bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    add_large_file(run)
    upload_run(run.root, bucket.url, transfer=PARTS)
    run.upload_record.unlink()
    record = upload_run(run.root, bucket.url, transfer=TransferSettings(part_bytes=PART + 2**20))
    assert (record.files_sent, record.files["telemetry.parquet"].verified) == (0, "read")


def test_full_verification_reads_everything_back(bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=3)
    sampled = upload_run(run.root, bucket.url)
    assert {file.verified for file in sampled.files.values()} == {"etag", "read"}
    full = upload_run(run.root, bucket.url, verify="full")
    assert {file.verified for file in full.files.values()} == {"read"}
    assert full.files_sent == 0


def test_the_server_compares_checksums_where_the_endpoint_supports_them(
    ministack_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(ministack_server, monkeypatch)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    run = write_run(tmp_path / "run", shards=3)
    add_large_file(run)
    record = upload_run(run.root, bucket.url, transfer=PARTS)
    assert record.files["rollouts/shard-00001.parquet"].verified == "checksum"
    assert record.files["telemetry.parquet"].verified == "etag"
    assert verify_upload(f"{bucket.url}/run").ok


def test_etags_of_kms_encrypted_objects_are_not_compared_with_md5s(bucket: Bucket, tmp_path: Path) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "key"}}
    bucket.server.client().put_bucket_encryption(
        Bucket=bucket.name, ServerSideEncryptionConfiguration={"Rules": [rule]}
    )
    run = write_run(tmp_path / "run", shards=3)
    record = upload_run(run.root, bucket.url)
    assert {file.verified for file in record.files.values()} == {"size", "read"}
    assert upload_run(run.root, bucket.url).files_sent == 0
    run.upload_record.unlink()
    forgetful = upload_run(run.root, bucket.url)
    assert ({file.verified for file in forgetful.files.values()}, forgetful.files_sent) == ({"read"}, 0)


def upload_shards_in_parallel(run: RunPaths, url: str, shards: int) -> None:
    """Upload each shard as its task of a flow does; all begin at the same moment, before config.json is there."""
    begin = threading.Barrier(shards)

    def upload(index: int) -> None:
        with RunUploader(run.root, url) as uploader:
            begin.wait()
            uploader.upload_files(f"{folder}/shard-{index:05d}.parquet" for folder in ("rollouts", "scores"))

    with ThreadPoolExecutor(shards) as pool:
        list(pool.map(upload, range(shards)))


def test_parallel_uploaders_of_one_run_send_its_configuration_once(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", shards=8, arms=1)
    with fault_proxy(bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        upload_shards_in_parallel(run, bucket.url, 8)
        record = read_upload_record(run.root)
        assert record is not None
        assert len(record.files) == 17
        assert upload_run(run.root, bucket.url).files_sent == 8
        assert sorted(proxy.sent("PUT").count(path) for path in {*proxy.sent("PUT")}) == [1] * (17 + 8 + 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.server.endpoint)
    assert verify_upload(f"{bucket.url}/run").ok


def test_parallel_uploaders_to_one_directory_all_succeed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=12, arms=1)
    for attempt in range(3):
        url = str(tmp_path / f"store {attempt}")
        upload_shards_in_parallel(run, url, 12)
        record = read_upload_record(run.root)
        assert record is not None
        stored = (tmp_path / f"store {attempt}" / "run" / "config.json").stat()
        assert str(stored.st_ino) in record.files["config.json"].etag.split("/"), "it was not sent again"
        assert not [*Path(url).rglob("*.tmp")]
        assert upload_run(run.root, url).complete
        assert verify_upload(f"{url}/run").ok


def test_a_change_while_another_upload_finishes_deletes_its_success(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = write_run(tmp_path / "run", shards=2)
    key = "team/rollouts/run/_SUCCESS"
    with fault_proxy(bucket.server.endpoint) as proxy, ThreadPoolExecutor(2) as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults.append(Fault(kind="slow", method="PUT", path="_SUCCESS"))
        finishing = pool.submit(upload_run, run.root, bucket.url)
        until(lambda: f"/{bucket.name}/{key}" in proxy.sent("PUT") or finishing.done(), "the upload of _SUCCESS")
        rescore(run, 0)
        changing = pool.submit(RunUploader(run.root, bucket.url).upload_files, ["scores/shard-00000.parquet"])
        until(lambda: WAITS in caplog.text or changing.done(), "the change to wait for the other upload")
        assert not changing.done()
        proxy.faults.clear()
        assert finishing.result().complete
        changing.result()
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.server.endpoint)
    assert key not in bucket.listing()
    assert upload_run(run.root, bucket.url).complete
    assert verify_upload(f"{bucket.url}/run").ok


def test_an_upload_that_waits_for_another_can_be_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = write_run(tmp_path / "run", shards=1)
    uploader = RunUploader(run.root, str(tmp_path / "bucket"))
    with upload_lock(run.state, exclusive=False, wait=pause):
        uploader.upload_files(["config.json"])
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(uploader.finish)
            until(lambda: WAITS in caplog.text or waiting.done(), "the upload to wait for the other")
            uploader.abort()
            with pytest.raises(TransferStoppedError):
                waiting.result()
    assert not (tmp_path / "bucket" / "run" / "_SUCCESS").exists()


def test_another_destination_starts_a_new_record(bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    upload_run(run.root, bucket.url)
    record = upload_run(run.root, f"{bucket.url}/elsewhere")
    assert record.files_sent == len(record.files) == 4
    assert record.url == f"{bucket.url}/elsewhere/run"


@pytest.mark.parametrize("name", ["../other/config.json", "state/secret.json", "rollouts/shard-00099.parquet"])
def test_only_published_files_are_uploaded(name: str, bucket: Bucket, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    publish_json({}, run.state / "secret.json")
    with pytest.raises(ConfigError, match="is not a published file"):
        RunUploader(run.root, bucket.url).upload_files([name])
    assert bucket.listing() == []


def test_no_file_and_no_log_line_contains_a_secret(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="s3fs")
    caplog.set_level(logging.DEBUG, logger="tasks")
    run = write_run(tmp_path / "run", shards=2)
    add_large_file(run)
    upload_run(run.root, bucket.url, transfer=PARTS)
    for path in run.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET_KEY.encode() not in data, path
            assert ACCESS_KEY.encode() not in data, path
    assert SECRET_KEY not in caplog.text
