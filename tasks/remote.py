"""Opening a destination: which filesystem a URL means, with which options and whose credentials.

A filesystem is opened inside the task that uses it and never handed to another: s3fs keeps its secret in its
serialised form. It runs its own event loop in a thread, so a process that has opened one must not fork.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import ConfigError

_CHECKSUM_VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """AWS credentials from elsewhere than the environment or the role chain, such as a Prefect block."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.secret_access_key, self.session_token)))


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How bytes travel. The defaults hold an upload of any size under about 500 MB of memory."""

    workers: int = 8
    """Files in flight per uploader. Bodies in memory are bounded per process, see ``tasks.objects``."""
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


def open_filesystem(url: str, transfer: Transfer | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path within it.

    Takes ``s3://bucket/prefix``, ``file:///path``, a plain path, and every other protocol that fsspec knows. Raises
    ConfigError for an unknown protocol, a protocol whose package is missing, or a URL that carries a password.
    """
    import fsspec

    transfer = transfer or Transfer()
    check_url(url)
    protocol = urlsplit(url).scheme
    if protocol in ("s3", "s3a"):
        if not urlsplit(url).netloc:
            raise ConfigError(f"{url!r} names no bucket; write s3://BUCKET/PREFIX")
        filesystem = _open_s3(transfer)
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
            "in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), a profile or a role"
        )


def _open_s3(transfer: Transfer) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    filesystem = _s3_filesystem(transfer, endpoint, _checksum_mode(endpoint))
    if endpoint is None:
        # an endpoint can also come from the profile: only the client knows
        actual = filesystem.s3.meta.endpoint_url
        if _checksum_mode(actual) != _checksum_mode(None):
            filesystem = _s3_filesystem(transfer, None, _checksum_mode(actual))
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


def _s3_filesystem(transfer: Transfer, endpoint: str | None, checksum_mode: str) -> Any:
    import s3fs
    from aiobotocore.session import AioSession

    session = AioSession()
    session.register_component("data_loader", _service_models())
    credentials = transfer.credentials() if transfer.credentials else None
    filesystem = s3fs.S3FileSystem(
        key=credentials.access_key_id if credentials else None,
        secret=credentials.secret_access_key if credentials else None,
        token=credentials.session_token if credentials else None,
        endpoint_url=endpoint,
        session=session,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
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
