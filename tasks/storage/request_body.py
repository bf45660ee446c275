"""Bodies of requests that cost no more passes over their bytes than they need.

All bytes of an upload leave through one thread, s3fs's event loop. What is done to them there, on top of sending, is
what limits an upload.
"""

import io
from typing import Any

from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth

_USUAL = ("v4", "s3v4")
_OURS = "harvest-s3v4-known-payload"


class Body(io.BytesIO):
    """Bytes to send, and their ``sha256`` in hex where it is known."""

    def __init__(self, data: bytes, sha256: str | None = None) -> None:
        super().__init__(data)
        self._data = data
        self.sha256 = sha256

    def getbuffer(self) -> memoryview:
        # aiohttp asks for the size this way; BytesIO would copy all bytes, as somebody could write to them
        return memoryview(self._data)


class _KnownPayloadAuth(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """Without TLS the signature covers the body's sha256, which botocore computes once more."""

    def payload(self, request: Any) -> str:
        body = request.data
        if isinstance(body, Body) and body.sha256 and not request.url.startswith("https"):
            return body.sha256
        return str(super().payload(request))


def sign_with_known_hashes(client: Any) -> None:
    """Have ``client`` (botocore's, for S3) take a Body's own sha256 for the signature of an object it puts."""
    AUTH_TYPE_MAPS[_OURS] = _KnownPayloadAuth
    client.meta.events.register("choose-signer.s3.PutObject", _choose)


def _choose(signature_version: Any, **_: Any) -> str | None:
    return _OURS if signature_version in _USUAL else None
