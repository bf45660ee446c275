"""Opening a destination: which filesystem a URL means, with which options and whose credentials.

A filesystem is opened inside the task that uses it and never handed to another: s3fs keeps its secret in its
serialised form. It runs its own event loop in a thread, so a process that has opened one must not fork.
"""

import functools
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tasks.errors import ConfigError
from tasks.storage.transfer_errors import TransferStoppedError, error_text, is_transient, redact

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_CHECKSUM_VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """AWS credentials, and the way to the store, from elsewhere than the environment, such as a Prefect block.

    What is None is looked for where it always is: in the environment, in a profile, in a role.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    """Name of a profile in this machine's AWS configuration; it may assume a role."""
    region: str | None = None
    endpoint_url: str | None = None
    verify: str | bool = True
    """Check of a TLS server's certificate: True, False, or the path of the authorities to trust."""
    client_settings: Mapping[str, Any] = field(default_factory=dict)
    """More for botocore's Config, such as ``{"s3": {"addressing_style": "path"}}``."""

    def secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.access_key_id, self.secret_access_key, self.session_token)))


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """How bytes travel. The defaults hold an upload of any size under about 500 MB of memory."""

    workers: int = 8
    """Files in flight per uploader. Bodies in memory are bounded per process, see ``tasks.storage.object_store``."""
    part_bytes: int = 8 * 2**20
    """Size of a part, in bytes; a larger file goes up in several parts."""
    attempts: int = 8
    """How often one request is tried before a transient failure counts."""
    base_delay_s: float = 0.25
    """Upper bound of the first back-off, in seconds; it doubles with each attempt."""
    max_delay_s: float = 20.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 120.0
    credentials: Callable[[], Credentials] | None = field(default=None, repr=False, compare=False)
    """Called where a filesystem is opened, so that a secret is never part of what tasks exchange."""


def open_filesystem(url: str, transfer: TransferSettings | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path within it.

    Takes ``s3://bucket/prefix``, ``file:///path``, a plain path, and every other protocol that fsspec knows. Raises
    ConfigError for an unknown protocol, a protocol whose package is missing, or a URL that carries a password.
    """
    import fsspec

    transfer = transfer or TransferSettings()
    check_url(url)
    protocol = urlsplit(url).scheme
    if protocol in ("s3", "s3a"):
        if not urlsplit(url).netloc:
            raise ConfigError(f"{url!r} names no bucket; write s3://BUCKET/PREFIX")
        filesystem = _open_s3(url, transfer)
        return filesystem, filesystem._strip_protocol(url)
    target = url if protocol else str(Path(url).expanduser())
    options: dict[str, Any] = {"auto_mkdir": True} if protocol in ("", "file", "local") else {}
    try:
        filesystem, path = fsspec.core.url_to_fs(target, skip_instance_cache=True, use_listings_cache=False, **options)
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("s3", "file", "gs", "abfs", "hf", "sftp"))
        raise ConfigError(f"cannot open {url!r}: {error}. Use a plain path or a protocol such as {known}") from None
    except ImportError as error:
        raise ConfigError(f"cannot open {url!r}: its package is not installed ({error})") from None
    return filesystem, str(path)


def check_url(url: str) -> None:
    """Raise ConfigError when ``url`` is empty or carries a password, which would end up in logs and receipts."""
    if not url.strip():
        raise ConfigError("the destination is empty; give a URL such as s3://BUCKET/PREFIX or a directory")
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and (":" in user or scheme in ("s3", "s3a")):
        raise ConfigError(
            f"the {scheme}:// destination carries credentials. Remove everything before the @, and give credentials "
            "in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), a profile, a role or a Prefect block"
        )


def _open_s3(url: str, transfer: TransferSettings) -> Any:
    given = transfer.credentials() if transfer.credentials else Credentials()
    try:
        return _connect(transfer, given)
    except Exception as error:
        # what botocore does not accept of a profile, an endpoint, a region or a setting; a server is not asked here
        text = redact(f"{type(error).__name__}: {error}", *given.secrets())
        raise ConfigError(
            f"cannot open {url!r}: {text}. Correct the AWS settings of the environment or block"
        ) from None


def _connect(transfer: TransferSettings, given: Credentials) -> Any:
    endpoint = given.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    filesystem = _s3_filesystem(transfer, given, endpoint, _checksum_mode(endpoint))
    if endpoint is None:
        # an endpoint can also come from the profile: only the client knows
        actual = filesystem.s3.meta.endpoint_url
        if _checksum_mode(actual) != _checksum_mode(None):
            filesystem = _s3_filesystem(transfer, given, None, _checksum_mode(actual))
    filesystem.connect()
    return filesystem


def _checksum_mode(endpoint: str | None) -> str:
    """AWS takes checksum headers on every request; other servers often refuse or ignore them."""
    if chosen := os.environ.get(_CHECKSUM_VARIABLE):
        return chosen.lower()
    host = urlsplit(endpoint or "").hostname or "amazonaws.com"
    return "when_supported" if f".{host}".endswith((".amazonaws.com", ".amazonaws.com.cn")) else "when_required"


@functools.cache
def _service_models() -> Any:
    """The description of the S3 API, shared by all clients: parsing it anew costs each 14 MB and 0.1 s."""
    from botocore.loaders import create_loader

    return create_loader()


def _s3_filesystem(transfer: TransferSettings, given: Credentials, endpoint: str | None, checksum_mode: str) -> Any:
    import s3fs
    from aiobotocore.session import AioSession

    session = AioSession(profile=given.profile)
    session.register_component("data_loader", _service_models())
    way: dict[str, Any] = {"region_name": given.region} if given.region else {}
    # True would hide the environment's AWS_CA_BUNDLE
    way |= {"verify": given.verify} if given.verify is not True else {}
    filesystem = s3fs.S3FileSystem(
        key=given.access_key_id,
        secret=given.secret_access_key,
        token=given.session_token,
        endpoint_url=endpoint,
        session=session,
        skip_instance_cache=True,
        use_listings_cache=False,
        client_kwargs=way,
        config_kwargs={
            **given.client_settings,
            "connect_timeout": transfer.connect_timeout_s,
            "read_timeout": transfer.read_timeout_s,
            "request_checksum_calculation": checksum_mode,
            "response_checksum_validation": checksum_mode,
            "max_pool_connections": 4 * transfer.workers,
            # one retry policy, ours: botocore's and s3fs's would multiply with it
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        },
    )
    filesystem.retries = 1
    return filesystem


def with_retries(
    call: Callable[[], Result],
    *,
    what: str,
    transfer: TransferSettings,
    stop: threading.Event,
    secrets: tuple[str, ...] = (),
) -> Result:
    """The result of ``call``, tried again after transient failures; the last failure propagates unchanged.

    Waits a random time below an exponentially growing bound ("full jitter", Brooker 2015, AWS Architecture Blog).
    """
    for attempt in range(1, transfer.attempts + 1):
        if stop.is_set():
            raise TransferStoppedError(f"{what} was stopped")
        try:
            return call()
        except Exception as error:
            if attempt == transfer.attempts or stop.is_set() or not is_transient(error):
                raise
            delay = random.uniform(0, min(transfer.max_delay_s, transfer.base_delay_s * 2 ** (attempt - 1)))
            reason = redact(error_text(error), *secrets)
            logger.warning(
                "%s failed (attempt %d of %d), again in %.1f s: %s", what, attempt, transfer.attempts, delay, reason
            )
            stop.wait(delay)
    raise AssertionError("unreachable: the last attempt returns or raises")
