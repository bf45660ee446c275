"""Interprets errors of a destination: whether to retry, and which HarvestError to raise. Its text has no secrets."""

import errno
import os
import re
from collections.abc import Iterator
from typing import Any

from tasks.errors import ConfigError, HarvestError, StorageError, UploadError

_TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException"),
        *("Throttling", "ThrottlingException", "RequestLimitExceeded", "OperationAborted"),
        # the network damaged the body
        *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),
    }
)
_TRANSIENT_TYPES = frozenset(
    {
        *("HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError"),
        *("IncompleteRead", "IncompleteReadError", "ResponseParserError", "FSTimeoutError", "ResponseStreamingError"),
        *("TimeoutError", "ConnectionError"),
    }
)
_FINAL_TYPES = frozenset({"OfflineModeIsEnabled"})
"""Errors that look like those of a network and follow from a setting of the user."""
_TRANSIENT_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.EBUSY, errno.EAGAIN),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
"""What a mounted filesystem says while its server does not answer."""
_BAD_PLACE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.EACCES, errno.EPERM, errno.EROFS),
    }
)
"""Errors of a local path that no repetition cures."""
_SECRET_VARIABLES = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY", re.IGNORECASE)
_SECRET_PATTERNS = (
    re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)"),
    re.compile(r"(?i)(?<=x-amz-signature=)[0-9a-f]+|(?<=x-amz-security-token=)[^&\s]+|(?<=x-amz-credential=)[^&\s]+"),
    re.compile(r"(?i)(?<=signature=)[0-9a-f]{16,}|(?<=credential=)[^,\s]+"),
)


class TransferStoppedError(UploadError):
    """The transfer was asked to stop."""


def redact(text: str, *secrets: str) -> str:
    """Return ``text`` with every known secret, URL password and request signature replaced by ``***``.

    The known secrets are ``secrets`` and the values of environment variables with names such as TOKEN or PASSWORD.
    """
    values = [value for name, value in os.environ.items() if _SECRET_VARIABLES.search(name)]
    for value in sorted({*values, *secrets}, key=len, reverse=True):
        if len(value) >= 6:
            text = text.replace(value, "***")
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub("***", text)
    return text


def is_transient(error: BaseException) -> bool:
    """Return whether the same request can succeed later: server faults, throttling, time-outs, broken connections, and
    mounted filesystems whose server does not answer.
    """
    for link in _chain(error):
        status, code = _answer(link)
        if code or status:
            return status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES
    numbers = {link.errno for link in _chain(error) if isinstance(link, OSError)}
    # a file is written into a folder that was just made, so the folder has gone since
    gone = isinstance(error, StorageError) and errno.ENOENT in numbers
    if gone or numbers & _TRANSIENT_ERRNOS:
        return True
    names = _type_names(error)
    return not (_certificate_refused(error) or names & _FINAL_TYPES) and bool(names & _TRANSIENT_TYPES)


def is_missing(error: BaseException) -> bool:
    """Return whether the error says that the object (not its bucket) does not exist."""
    answers = [_answer(link) for link in _chain(error)]
    if any(code == "NoSuchBucket" for _, code in answers):
        return False
    return isinstance(error, FileNotFoundError) or any(code in ("404", "NoSuchKey") for _, code in answers)


def explain(error: BaseException, *, what: str, url: str, secrets: tuple[str, ...] = ()) -> HarvestError:
    """Return the HarvestError to raise for ``error``: it says what failed, where, and what to do, without secrets."""
    if not url.startswith(("s3:", "s3a:")) and any(
        isinstance(link, OSError) and link.errno in _BAD_PLACE for link in _chain(error)
    ):
        text = f"{what} failed at {url}: {error_text(error).rstrip('.')}"
        return ConfigError(redact(f"{text}. Give a directory that can be used, or correct its permissions", *secrets))
    if isinstance(error, StorageError):
        error.retryable = is_transient(error)
    if isinstance(error, HarvestError):
        return error
    names = _type_names(error)
    code = next((code for link in _chain(error) if (code := _answer(link)[1])), "")
    status = next((status for link in _chain(error) if (status := _answer(link)[0])), 0)
    kind: type[HarvestError] = UploadError
    if code == "NoSuchBucket":
        kind, remedy = ConfigError, "The bucket does not exist: create it or correct the URL and the endpoint"
    elif "NoCredentialsError" in names or "PartialCredentialsError" in names:
        remedy = (
            "No credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, a role or a "
            "Prefect block"
        )
    elif code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        remedy = "The credentials were refused: renew them or correct them"
    elif code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"):
        remedy = "The bucket is in another region: set AWS_REGION to that region"
    elif status == 403 or code in ("403", "AccessDenied", "AllAccessDisabled") or isinstance(error, PermissionError):
        remedy = (
            "Access is denied: the credentials need to list, read, write and delete objects below this URL "
            "(s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload)"
        )
    elif _certificate_refused(error):
        remedy = "The TLS connection was not trusted: set AWS_CA_BUNDLE to the authority's certificate"
    elif "ParamValidationError" in names or code == "InvalidBucketName":
        kind, remedy = ConfigError, "Correct the bucket's name in the URL"
    elif status == 404 or code == "404":
        kind, remedy = ConfigError, "Nothing exists there: correct the bucket in the URL and the endpoint"
    elif isinstance(error, NotImplementedError):
        kind, remedy = ConfigError, "This protocol cannot be written to: use s3://, file:// or another store"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free space there or choose another destination; files that were sent are not sent again"
    elif is_transient(error):
        remedy = "The server did not answer properly in any attempt: check the endpoint, then run the same command"
    else:
        remedy = "Run the same command again; files that were sent are not sent again"
    text = redact(f"{what} failed at {url}: {error_text(error).rstrip('.')}. {remedy}", *secrets)
    return UploadError(text, retryable=is_transient(error)) if kind is UploadError else kind(text)


def error_text(error: BaseException) -> str:
    """Return the error's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _type_names(error: BaseException) -> set[str]:
    return {base.__name__ for link in _chain(error) for base in type(link).__mro__}


def _certificate_refused(error: BaseException) -> bool:
    return any("CERTIFICATE_VERIFY_FAILED" in str(link) for link in _chain(error))


def _answer(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status and the S3 error code, such as ``NoSuchUpload``; 0 and "" for what the error lacks."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    return (
        int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
        str(response.get("Error", {}).get("Code", "")),
    )
