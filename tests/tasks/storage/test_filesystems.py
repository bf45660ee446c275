"""URLs are opened with the right options, or refused by an error without secrets."""

from pathlib import Path

import pytest

from tasks.errors import ConfigError, HarvestError, UploadError
from tasks.storage.destination import check_destination, open_store
from tasks.storage.filesystems import Credentials, TransferSettings, open_filesystem
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.odd_paths import ODD_NAMES
from tests.support.prefect_server import free_port
from tests.support.s3_servers import ACCESS_KEY, SECRET_KEY, Bucket, S3Server

QUICK = TransferSettings(attempts=2, base_delay_s=0.01, connect_timeout_s=2, read_timeout_s=2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "the destination is empty"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("file://", "names no bucket, host or directory"),
        ("file:///", "names no bucket, host or directory"),
        ("http://[::1", "is no URL"),
        ("memory://bucket", "is in the memory of this process"),
        ("zip://x::/nope.zip", "cannot open"),
        ("nosuch://bucket/prefix", "Protocol not known"),
        (f"s3://{ACCESS_KEY}:{SECRET_KEY.replace('/', '-')}@bucket/prefix", "contains credentials"),
        ("sftp://user:hunter2@host/path", "contains credentials"),
        ("s3://No_Such_Bucket!/x", "bucket"),
    ],
)
def test_a_wrong_url_is_a_config_error_without_secrets(url: str, expected: str, bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        check_destination(url, QUICK)
    assert "hunter2" not in str(caught.value)
    assert "dummy" not in str(caught.value)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_directory_is_a_destination_under_its_own_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for root, url in (
        (tmp_path / "relative", f"./relative/{name}"),
        (tmp_path / "absolute", f"{tmp_path}/absolute/{name}"),
        (tmp_path / "in a URL", f"file://{tmp_path}/in a URL/{name}"),
        (tmp_path / "file:", f"file:/{name}"),
        (tmp_path / "local:", f"local:/{name}"),
    ):
        store = open_store(url)
        store.put_bytes("folder/key", b"data", fingerprint="")
        assert [path for path in root.rglob("*") if path.is_file()] == [root / name / "folder" / "key"]
        assert list(store.listing()) == ["folder/key"]
        assert store.read("folder/key") == b"data"


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/x", "/proc/x", "FILE", "FILE/x", "LOOP"])
def test_a_place_that_takes_no_files_is_bad_input(scheme: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "LOOP").symlink_to("LOOP")
    url = f"{scheme}{tmp_path / place}"
    with pytest.raises(ConfigError) as caught:
        check_destination(url)
    assert str(tmp_path / place) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_check_leaves_nothing_at_the_destination(any_bucket: Bucket, tmp_path: Path) -> None:
    check_destination(any_bucket.url)
    check_destination(str(tmp_path / "new" / "folder"))
    assert list(tmp_path.iterdir()) == []
    assert any_bucket.listing() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_bucket_is_a_config_error(any_bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=r"s3://no-such-bucket-here/x: .*bucket") as caught:
        check_destination("s3://no-such-bucket-here/x", QUICK)
    assert SECRET_KEY not in str(caught.value)


def test_denied_access_is_not_retried_and_the_error_names_the_rights(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults.append(Fault(kind="403", method="PUT", times=99))
        with pytest.raises(UploadError, match="s3:PutObject") as caught:
            check_destination(bucket.url, QUICK)
    assert len(proxy.sent("PUT")) == 1
    assert SECRET_KEY not in str(caught.value)


def test_the_error_says_that_credentials_are_missing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UploadError, match="No credentials were found: set AWS_ACCESS_KEY_ID"):
        check_destination(bucket.url, QUICK)


def test_an_endpoint_that_does_not_answer_is_an_upload_error(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UploadError, match="check the endpoint") as caught:
        check_destination(bucket.url, QUICK)
    assert SECRET_KEY not in str(caught.value)


def test_an_untrusted_certificate_is_an_upload_error(tls_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(UploadError, match="set AWS_CA_BUNDLE"):
        check_destination(tls_bucket.url, QUICK)


def test_a_path_below_a_file_is_an_error(tmp_path: Path) -> None:
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


def test_checksums_follow_the_endpoint_of_the_aws_profile(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {moto_server.endpoint}\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    filesystem, _ = open_filesystem("s3://bucket/prefix")
    assert filesystem.s3.meta.endpoint_url == moto_server.endpoint
    assert filesystem.s3.meta.config.request_checksum_calculation == "when_required"


def test_a_filesystem_is_never_shared(bucket: Bucket) -> None:
    assert open_filesystem(bucket.url)[0] is not open_filesystem(bucket.url)[0]


def test_given_credentials_reach_the_server_and_are_not_printed(
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
