"""A body that is not hashed again is signed as botocore signs it."""

import datetime
import hashlib
from typing import Any

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tasks.storage.request_body import Body, _KnownPayloadAuth

DATA = b"rollouts" * 1000
KNOWN = hashlib.sha256(DATA).hexdigest()


def signed(auth: type[Any], body: Body, scheme: str = "http") -> dict[str, str]:
    request = AWSRequest("PUT", f"{scheme}://store/bucket/key", headers={"Content-MD5": "x"}, data=body)
    request.context["has_streaming_input"] = True
    signer = auth(Credentials("AKIADUMMY", "dummy", "token"), "s3", "us-east-1")
    signer.add_auth(request)
    assert body.read() == DATA
    return dict(request.headers.items())


@pytest.fixture(autouse=True)
def _still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.datetime(2026, 1, 1))


@pytest.mark.parametrize("sha256", [KNOWN, None])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_signature_is_botocores(sha256: str | None, scheme: str) -> None:
    usual = signed(S3SigV4Auth, Body(DATA), scheme)
    assert signed(_KnownPayloadAuth, Body(DATA, sha256), scheme) == usual
    assert usual["X-Amz-Content-SHA256"] == (KNOWN if scheme == "http" else "UNSIGNED-PAYLOAD")


def test_the_hash_is_taken_as_it_was_given() -> None:
    assert signed(_KnownPayloadAuth, Body(DATA, "0" * 64))["X-Amz-Content-SHA256"] == "0" * 64


def test_the_size_is_told_without_a_copy() -> None:
    body = Body(DATA)
    with body.getbuffer() as view:
        assert (len(view), view.obj is DATA) == (len(DATA), True)
