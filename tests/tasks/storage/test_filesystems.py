"""What a URL opens, what is refused, and that nothing says a secret."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tasks.errors import ConfigError, HarvestError, UploadError
from tasks.storage.destination import check_destination, open_store
from tasks.storage.digests import digest_file
from tasks.storage.filesystems import Credentials, TransferSettings, open_filesystem
from tasks.storage.retries import with_retries
from tasks.storage.transfer_errors import explain, is_transient, redact
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.s3_servers import ACCESS_KEY, SECRET_KEY, Bucket, S3Server, free_port

QUICK = TransferSettings(attempts=2, base_delay_s=0.01, connect_timeout_s=2, read_timeout_s=2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "the destination is empty"),
        ("s3://", "names no bucket"),
        ("nosuch://bucket/prefix", "Protocol not known"),
        (f"s3://{ACCESS_KEY}:{SECRET_KEY.replace('/', '-')}@bucket/prefix", "contains credentials"),
        ("sftp://user:hunter2@host/path", "contains credentials"),
        ("s3://No_Such_Bucket!/x", "bucket"),
    ],
)
def test_a_url_that_cannot_be_a_destination(url: str, expected: str, bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        check_destination(url, QUICK)
    assert "hunter2" not in str(caught.value)
    assert "dummy" not in str(caught.value)


def test_a_good_destination_is_left_as_it_was(any_bucket: Bucket, tmp_path: Path) -> None:
    check_destination(any_bucket.url)
    check_destination(str(tmp_path / "new" / "folder"))
    assert any_bucket.listing() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_bucket(any_bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=r"s3://no-such-bucket-here/x: .*bucket") as caught:
        check_destination("s3://no-such-bucket-here/x", QUICK)
    assert SECRET_KEY not in str(caught.value)


def test_denied_is_an_error_at_once_and_names_the_rights(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_proxy(bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults.append(Fault(kind="403", method="PUT", times=99))
        with pytest.raises(UploadError, match="s3:PutObject") as caught:
            check_destination(bucket.url, QUICK)
    assert len(proxy.sent("PUT")) == 1
    assert SECRET_KEY not in str(caught.value)


def test_no_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UploadError, match="No credentials were found: set AWS_ACCESS_KEY_ID"):
        check_destination(bucket.url, QUICK)


def test_nobody_listens(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UploadError, match="check the endpoint") as caught:
        check_destination(bucket.url, QUICK)
    assert SECRET_KEY not in str(caught.value)


def test_an_untrusted_certificate_is_an_error_at_once(tls_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(UploadError, match="set AWS_CA_BUNDLE"):
        check_destination(tls_bucket.url, QUICK)


def test_a_read_only_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HarvestError, match="file"):
        check_destination(str(tmp_path / "file" / "below"), QUICK)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "when_required"),
        ({"AWS_ENDPOINT_URL": "https://s3.eu-central-1.amazonaws.com"}, "when_supported"),
        ({"AWS_ENDPOINT_URL": ""}, "when_supported"),
        ({"AWS_ENDPOINT_URL_S3": "https://storage.example.org"}, "when_required"),
        ({"AWS_ENDPOINT_URL_S3": "https://notamazonaws.com"}, "when_required"),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_SUPPORTED"}, "when_supported"),
    ],
)
def test_checksums_follow_the_endpoint(
    variables: dict[str, str], expected: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    filesystem, path = open_filesystem("s3://bucket/prefix/")
    config = filesystem.s3.meta.config
    assert (config.request_checksum_calculation, config.response_checksum_validation) == (expected, expected)
    assert path == "bucket/prefix"
    assert config.read_timeout >= 120


def test_an_endpoint_from_the_profile_counts_too(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {moto_server.endpoint}\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    filesystem, _ = open_filesystem("s3://bucket/prefix")
    assert filesystem.s3.meta.endpoint_url == moto_server.endpoint
    assert filesystem.s3.meta.config.request_checksum_calculation == "when_required"


def test_every_opening_is_a_filesystem_of_its_own(bucket: Bucket) -> None:
    assert open_filesystem(bucket.url)[0] is not open_filesystem(bucket.url)[0]


def test_credentials_from_elsewhere_reach_the_server_and_no_text(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    transfer = TransferSettings(
        credentials=lambda: Credentials(access_key_id="AKIAOTHER", secret_access_key="other-secret"), attempts=1
    )
    check_destination(bucket.url, transfer)
    assert "other-secret" not in repr(transfer)
    assert "other-secret" not in repr(transfer.credentials and transfer.credentials())


@pytest.mark.parametrize(
    "text",
    [
        f"login with {SECRET_KEY} failed",
        f"key {ACCESS_KEY}",
        "https://user:hunter2hunter2@host/path",
        "https://host/key?X-Amz-Credential=AKIADUMMYKEYFORTESTS%2F20260101&X-Amz-Signature=hunter2hunter2",
    ],
)
def test_redaction(text: str, bucket: Bucket) -> None:
    redacted = redact(text.replace("X-Amz-Signature=hunter2hunter2", "X-Amz-Signature=0123456789abcdef"))
    for secret in (SECRET_KEY, ACCESS_KEY, "hunter2", "0123456789abcdef"):
        assert secret not in redacted
    assert "***" in redacted


def test_what_is_not_the_networks_fault_is_not_tried_again() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        with_retries(fail, what="x", transfer=TransferSettings(), stop=threading.Event())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("reset by peer"), True),
        (TimeoutError("timed out"), True),
        (PermissionError("denied"), False),
        (FileNotFoundError("gone"), False),
        (KeyError("x"), False),
    ],
)
def test_transient(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected


def _answered(status: int, code: str) -> Exception:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (_answered(503, "SlowDown"), UploadError, True),
        (_answered(500, "InternalError"), UploadError, True),
        (ConnectionResetError("reset by peer"), UploadError, True),
        (TimeoutError("timed out"), UploadError, True),
        (_answered(403, "AccessDenied"), UploadError, False),
        (_answered(403, "InvalidAccessKeyId"), UploadError, False),
        (_answered(404, "NoSuchBucket"), ConfigError, False),
        (_answered(404, "404"), ConfigError, False),
        (OSError(errno.ENOSPC, "full"), UploadError, False),
        (KeyError("a bug"), UploadError, False),
    ],
)
def test_an_outage_is_worth_another_try_later(error: Exception, kind: type[HarvestError], again: bool) -> None:
    explained = explain(error, what="writing x", url="s3://bucket/run")
    assert (type(explained), explained.retryable) == (kind, again)


def test_a_listing_of_several_pages(bucket: Bucket) -> None:
    client = bucket.server.client()
    keys = {f"run/rollouts/shard-{index:05d}.parquet" for index in range(1010)}

    def put(key: str) -> None:
        client.put_object(Bucket=bucket.name, Key=key, Body=b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, keys))
    put("run-2/neighbour")
    found = open_store(f"s3://{bucket.name}/run").listing()
    assert {f"run/{key}" for key in found} == keys
    assert {stored.size for stored in found.values()} == {1}


def test_parts_grow_so_that_ten_thousand_suffice(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1001)
    with (tmp_path / "file").open("rb") as file:
        digest = digest_file(file, 10, max_parts=100)
    assert (digest.part_bytes, len(digest.part_md5s)) == (11, 91)
