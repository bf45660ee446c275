"""Which errors are worth a retry, which HarvestError they become, and that no text contains a secret."""

import errno

import pytest
from botocore.exceptions import ClientError
from huggingface_hub.errors import OfflineModeIsEnabled

from tasks.errors import ConfigError, HarvestError, StorageError, UploadError
from tasks.storage.transfer_errors import explain, is_transient, redact
from tests.support.s3_servers import ACCESS_KEY, SECRET_KEY, Bucket


@pytest.mark.parametrize(
    "text",
    [
        f"login with {SECRET_KEY} failed",
        f"key {ACCESS_KEY}",
        "https://user:hunter2hunter2@host/path",
        "https://host/key?X-Amz-Credential=AKIADUMMYKEYFORTESTS%2F20260101&X-Amz-Signature=hunter2hunter2",
    ],
)
def test_secrets_are_replaced(text: str, bucket: Bucket) -> None:
    redacted = redact(text.replace("X-Amz-Signature=hunter2hunter2", "X-Amz-Signature=0123456789abcdef"))
    for secret in (SECRET_KEY, ACCESS_KEY, "hunter2", "0123456789abcdef"):
        assert secret not in redacted
    assert "***" in redacted


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("reset by peer"), True),
        (TimeoutError("timed out"), True),
        (PermissionError("denied"), False),
        (FileNotFoundError("gone"), False),
        (KeyError("x"), False),
        (OfflineModeIsEnabled("HF_HUB_OFFLINE is set"), False),
    ],
)
def test_network_errors_are_transient(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected


def _not_written(number: int) -> Exception:
    """What ``atomic_path`` raises for an error of the filesystem."""
    error = StorageError("could not write a file")
    error.__cause__ = OSError(number, "")
    return error


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
        (OSError(errno.ESTALE, "the mount's server does not answer"), UploadError, True),
        (_not_written(errno.EIO), StorageError, True),
        (_not_written(errno.ENOENT), StorageError, True),
        (_not_written(errno.ENOSPC), StorageError, False),
        (_not_written(errno.EACCES), StorageError, False),
        (KeyError("a bug"), UploadError, False),
    ],
)
def test_an_outage_is_retryable(error: Exception, kind: type[HarvestError], again: bool) -> None:
    explained = explain(error, what="writing x", url="s3://bucket/run")
    assert (type(explained), explained.retryable) == (kind, again)
