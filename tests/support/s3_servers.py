"""S3 servers for tests: moto's server and ministack, each in its own process, over HTTP and over TLS."""

import datetime
import functools
import ipaddress
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.patience import end, until
from tests.support.prefect_server import free_port
from tests.support.shared_process import shared_process

ACCESS_KEY = "AKIADUMMYKEYFORTESTS"
SECRET_KEY = "dummy/secret+that/must+never+be/written+anywhere"
SERVERS = ("moto", "ministack")
SMALLEST_PART = 64 * 2**10
"""Smallest part of an upload in bytes that moto's server takes here. ministack takes no less than 5 MiB, as AWS."""


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running server; ``ca_bundle`` is set for TLS."""

    endpoint: str
    ca_bundle: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a user would export to reach this server."""
        variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return {**variables, **({"AWS_CA_BUNDLE": self.ca_bundle} if self.ca_bundle else {})}

    def client(self) -> Any:
        """A boto3 client, to see the server through an independent tool."""
        return _client(self.endpoint, self.ca_bundle)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """An empty bucket of a server, made for one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}/team/rollouts"

    def listing(self) -> list[str]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def get(self, key: str) -> bytes:
        body: bytes = self.server.client().get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def overwrite_keeping_metadata(self, key: str, body: bytes) -> None:
        client = self.server.client()
        metadata = client.head_object(Bucket=self.name, Key=key)["Metadata"]
        client.put_object(Bucket=self.name, Key=key, Body=body, Metadata=metadata)

    def open_uploads(self) -> list[str]:
        answer = self.server.client().list_multipart_uploads(Bucket=self.name)
        return [item["Key"] for item in answer.get("Uploads", [])]


@functools.cache
def _client(endpoint: str, ca_bundle: str | None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        verify=ca_bundle,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@contextmanager
def running_server(kind: str, directory: Path) -> Iterator[S3Server]:
    """A server ``moto`` or ``ministack`` of its own."""
    process, endpoint = start_server(kind, directory)
    try:
        yield S3Server(endpoint=endpoint)
    finally:
        end(process)


def start_server(
    kind: str, directory: Path, tls: tuple[Path, Path, Path] | None = None
) -> tuple["subprocess.Popen[bytes]", str]:
    """Start ``moto`` or ``ministack``; return it and its endpoint as soon as it answers.

    ``tls`` is (CA certificate, server certificate, server key).
    """
    port = free_port()
    environment = {**os.environ, "TMPDIR": str(directory)}
    if kind == "moto":
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        command += ["-s", "-c", str(tls[1]), "-k", str(tls[2])] if tls else []
        # so that tests of multipart uploads need no large files
        environment |= {"S3_UPLOAD_PART_MIN_SIZE": str(SMALLEST_PART)}
    else:
        command = [sys.executable, "-m", "ministack"]
        environment |= {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3", "LOG_LEVEL": "ERROR"}
    log_path = directory / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)
    server = S3Server(
        endpoint=f"{'https' if tls else 'http'}://127.0.0.1:{port}", ca_bundle=str(tls[0]) if tls else None
    )
    try:
        until(lambda: _answers(server), f"{kind} answers", alive=[process], logs=[log_path])
    except BaseException:
        end(process)
        raise
    return process, server.endpoint


def _answers(server: S3Server) -> bool:
    try:
        server.client().list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with shared_process(tmp_path_factory, "moto", lambda folder: start_server("moto", folder)) as (endpoint, _):
        yield S3Server(endpoint=endpoint)


@pytest.fixture(scope="session")
def ministack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with shared_process(tmp_path_factory, "ministack", lambda folder: start_server("ministack", folder)) as (
        endpoint,
        _,
    ):
        yield S3Server(endpoint=endpoint)


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A moto server whose certificate a test authority signed."""

    def start(folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
        return start_server("moto", folder, tls=make_certificates(folder))

    with shared_process(tmp_path_factory, "tls", start) as (endpoint, folder):
        yield S3Server(endpoint=endpoint, ca_bundle=str(folder / "authority.pem"))


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket of moto's server, with the environment that reaches it."""
    return make_bucket(moto_server, monkeypatch)


@pytest.fixture(params=SERVERS)
def any_bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket, once of each server."""
    return make_bucket(request.getfixturevalue(f"{request.param}_server"), monkeypatch)


@pytest.fixture
def tls_bucket(tls_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return make_bucket(tls_server, monkeypatch)


def make_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    name = f"rollouts-{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=name)
    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    return Bucket(server=server, name=name)


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """Paths of a test authority's certificate, and of a certificate and key for 127.0.0.1 that it signed."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    usage = {
        **dict.fromkeys(("digital_signature", "key_cert_sign", "crl_sign"), True),
        **dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False),
        **dict.fromkeys(("encipher_only", "decipher_only"), False),
    }
    authority = (
        certificate(authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    signed = (
        certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), server_key)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    paths = (directory / "authority.pem", directory / "server.pem", directory / "server.key")
    paths[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths
