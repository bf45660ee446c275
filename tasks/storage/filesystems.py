"""Opens the fsspec filesystem that a URL means, with the right options and credentials.

Each task opens its own filesystem and never passes it to another task: a serialised s3fs filesystem contains the secret
key. s3fs runs an event loop in a thread, so a process that has opened a filesystem must not fork.
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import ConfigError
from tasks.storage.transfer_errors import redact
from tasks.time_limits import time_limit
from tasks.user_paths import is_url, user_path

USE = "Use a directory, s3://BUCKET/PREFIX, or another protocol, such as gs://, abfs://, hf:// or sftp://"
_OF_THIS_PROCESS = ("memory", "reference")
_CHECKSUM_VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """AWS credentials and connection settings from a source such as a Prefect block.

    botocore takes every field that is None from the environment, the AWS profile or the machine's role.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    """Name of a profile in this machine's AWS configuration; it may assume a role."""
    region: str | None = None
    endpoint_url: str | None = None
    verify: str | bool = True
    """How to check the server's TLS certificate: True, False, or the path of a file with the authorities to trust."""
    client_settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of botocore's Config, such as ``{"s3": {"addressing_style": "path"}}``."""

    def secrets(self) -> tuple[str, ...]:
        """Return the values that no log or error message may contain."""
        return tuple(filter(None, (self.access_key_id, self.secret_access_key, self.session_token)))


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """Settings of uploads and downloads. With the defaults an upload of any size needs less than 500 MB of memory."""

    workers: int = 8
    """How many files one uploader sends at once. ``BODIES_IN_MEMORY`` in object_store.py bounds a whole process."""
    part_bytes: int = 8 * 2**20
    """Size of a part, in bytes; a larger file is sent in several parts."""
    attempts: int = 8
    """How often one request is tried before a transient failure is final."""
    base_delay_s: float = 0.25
    """Upper bound of the wait after the first attempt, in seconds; it doubles with each attempt."""
    max_delay_s: float = 20.0
    """Upper bound of every wait, in seconds."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 120.0
    credentials: Callable[[], Credentials] | None = field(default=None, repr=False, compare=False)
    """Called when a filesystem is opened, so that tasks never pass a secret to each other."""


def open_filesystem(url: str, transfer: TransferSettings | None = None) -> tuple[Any, str]:
    """Return the fsspec filesystem of ``url`` and the path within it.

    ``url`` is ``s3://bucket/prefix``, ``file:///path``, a plain path, or has another protocol of fsspec. Raises
    ConfigError for an unknown protocol, a protocol whose package is missing, or a URL that contains a password.
    """
    import fsspec

    transfer = transfer or TransferSettings()
    check_url(url)
    if not is_url(url) or url.startswith("file://"):
        # fsspec itself would look for protocols in a path, such as a::b or file:d
        local: Any = fsspec.filesystem("file", skip_instance_cache=True, auto_mkdir=True)
        return local, str(user_path(url.removeprefix("file://")).absolute())
    protocol = urlsplit(url).scheme
    if protocol in ("s3", "s3a"):
        filesystem = _open_s3(url, transfer)
        return filesystem, filesystem._strip_protocol(url)
    if protocol in _OF_THIS_PROCESS:
        raise ConfigError(f"{url!r} is in the memory of this process and gone with it. {USE}")
    try:
        filesystem, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        raise ConfigError(f"cannot open {url!r}: its package is not installed ({error})") from None
    except Exception as error:  # each filesystem of fsspec has its own
        raise ConfigError(f"cannot open {url!r}: {redact(str(error))}. {USE}") from None
    return filesystem, str(path)


def check_url(url: str) -> None:
    """Raise ConfigError when ``url`` names no place, or contains a password, which logs and files would then show."""
    if not url.strip():
        raise ConfigError("the destination is empty; give a URL such as s3://BUCKET/PREFIX or a directory")
    if is_url(url):
        try:
            place = urlsplit(url)
        except ValueError as error:
            raise ConfigError(f"{url!r} is no URL: {error}. {USE}") from None
        if not place.netloc and (place.scheme in ("s3", "s3a") or not place.path.strip("/")):
            raise ConfigError(f"{url!r} names no bucket, host or directory. {USE}")
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and (":" in user or scheme in ("s3", "s3a")):
        raise ConfigError(
            f"the {scheme}:// destination contains credentials. Remove everything before the @, and give credentials "
            "in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), a profile, a role or a Prefect block"
        )


def _open_s3(url: str, transfer: TransferSettings) -> Any:
    given = transfer.credentials() if transfer.credentials else Credentials()
    try:
        return _connect(transfer, given)
    except Exception as error:
        # botocore refused a profile, an endpoint, a region or a setting; no server was asked yet
        text = redact(f"{type(error).__name__}: {error}", *given.secrets())
        raise ConfigError(
            f"cannot open {url!r}: {text}. Correct the AWS settings of the environment or block"
        ) from None


def _connect(transfer: TransferSettings, given: Credentials) -> Any:
    endpoint = given.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    filesystem = _s3_filesystem(transfer, given, endpoint, _checksum_mode(endpoint))
    if endpoint is None:
        # the endpoint may come from the AWS profile; only the client knows
        actual = filesystem.s3.meta.endpoint_url
        if _checksum_mode(actual) != _checksum_mode(None):
            filesystem = _s3_filesystem(transfer, given, None, _checksum_mode(actual))
    filesystem.connect()
    return filesystem


def _checksum_mode(endpoint: str | None) -> str:
    """Return when to send checksum headers: AWS accepts them always, other servers often refuse or ignore them."""
    if chosen := os.environ.get(_CHECKSUM_VARIABLE):
        return chosen.lower()
    host = urlsplit(endpoint or "").hostname or "amazonaws.com"
    return "when_supported" if f".{host}".endswith((".amazonaws.com", ".amazonaws.com.cn")) else "when_required"


@functools.cache
def _service_models() -> Any:
    """Return botocore's description of the S3 API, shared by all clients: each parse costs 14 MB and 0.1 s."""
    from botocore.loaders import create_loader

    return create_loader()


def _s3_filesystem(transfer: TransferSettings, given: Credentials, endpoint: str | None, checksum_mode: str) -> Any:
    import s3fs
    from aiobotocore.session import AioSession

    session = AioSession(profile=given.profile)
    session.register_component("data_loader", _service_models())
    connection: dict[str, Any] = {"region_name": given.region} if given.region else {}
    # True would hide the environment's AWS_CA_BUNDLE
    connection |= {"verify": given.verify} if given.verify is not True else {}
    filesystem = s3fs.S3FileSystem(
        key=given.access_key_id,
        secret=given.secret_access_key,
        token=given.session_token,
        endpoint_url=endpoint,
        session=session,
        skip_instance_cache=True,
        use_listings_cache=False,
        client_kwargs=connection,
        config_kwargs={
            **given.client_settings,
            "connect_timeout": time_limit(transfer.connect_timeout_s),
            "read_timeout": time_limit(transfer.read_timeout_s),
            "request_checksum_calculation": checksum_mode,
            "response_checksum_validation": checksum_mode,
            "max_pool_connections": 4 * transfer.workers,
            # no retries by botocore or s3fs: tasks.storage.retries has them
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        },
    )
    filesystem.retries = 1
    return filesystem
