"""Digests of a file, all in one pass over its bytes."""

import hashlib
import os
from dataclasses import dataclass
from typing import BinaryIO

_READ_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What a file's bytes come to: ``sha256`` of all, and the MD5 of each part as it would be sent."""

    size: int
    sha256: str
    part_bytes: int
    part_md5s: tuple[bytes, ...]

    @property
    def etag(self) -> str:
        """The ETag that S3 gives to these bytes, uploaded in these parts, without KMS encryption.

        One part: the MD5 of the body. Several parts: the MD5 of the parts' MD5s and their count (the rule that all
        S3 implementations follow; see "Checking object integrity" in the Amazon S3 user guide).
        """
        if len(self.part_md5s) == 1:
            return self.part_md5s[0].hex()
        return f"{_md5(b''.join(self.part_md5s)).hex()}-{len(self.part_md5s)}"


def digest_file(file: BinaryIO, least_part_bytes: int, most_parts: int = 10_000) -> Digest:
    """Digest an open file, read from its start; parts grow when the file would need more than ``most_parts``.

    Reads by position, so that parts can be sent from the same descriptor afterwards: a file replaced meanwhile by an
    atomic rename keeps its old bytes here.
    """
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    part_bytes = max(least_part_bytes, -(-size // most_parts))
    whole = hashlib.sha256()
    part_md5s: list[bytes] = []
    for start in range(0, max(1, size), part_bytes):
        end = min(size, start + part_bytes)
        part = hashlib.md5(usedforsecurity=False)
        for position in range(start, end, _READ_BYTES):
            data = os.pread(descriptor, min(_READ_BYTES, end - position), position)
            if len(data) < min(_READ_BYTES, end - position):
                raise OSError(f"{file.name} was cut short while it was read")
            whole.update(data)
            part.update(data)
        part_md5s.append(part.digest())
    return Digest(size=size, sha256=whole.hexdigest(), part_bytes=part_bytes, part_md5s=tuple(part_md5s))


def digest_bytes(data: bytes) -> Digest:
    """Digest of bytes that are sent in one part."""
    return Digest(
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        part_bytes=max(1, len(data)),
        part_md5s=(_md5(data),),
    )


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
