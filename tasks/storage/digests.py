"""Computes the digests of a file in one pass: the sha256 of all bytes, and the MD5 of each part."""

import hashlib
import os
from dataclasses import dataclass
from typing import BinaryIO

_READ_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The digests of a file's bytes, and the parts in which it is uploaded."""

    size: int
    """In bytes."""
    sha256: str
    """The sha256 of all bytes, in hex."""
    part_bytes: int
    """Size of every part but the last."""
    part_md5s: tuple[bytes, ...]
    """The MD5 of each part."""

    @property
    def etag(self) -> str:
        """Return the ETag that S3 gives to these bytes, uploaded in these parts, without KMS encryption.

        For one part it is the MD5 of the body. For several parts it is the MD5 of the parts' MD5s, and their number.
        All S3 implementations follow this rule; see "Checking object integrity" in the Amazon S3 user guide.
        """
        if len(self.part_md5s) == 1:
            return self.part_md5s[0].hex()
        return f"{_md5(b''.join(self.part_md5s)).hex()}-{len(self.part_md5s)}"


def digest_file(file: BinaryIO, min_part_bytes: int, max_parts: int = 10_000) -> Digest:
    """Return the digest of an open file. Parts are larger when the file would need more than ``max_parts``.

    Leaves the file's position as it is. Parts can be sent from the same descriptor afterwards: when an atomic rename
    replaces the file meanwhile, the descriptor keeps the old bytes. Raises OSError when the file becomes shorter.
    """
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    part_bytes = max(min_part_bytes, -(-size // max_parts))
    whole = hashlib.sha256()
    part_md5s: list[bytes] = []
    for start in range(0, max(1, size), part_bytes):
        end = min(size, start + part_bytes)
        part = hashlib.md5(usedforsecurity=False)
        for position in range(start, end, _READ_BYTES):
            data = os.pread(descriptor, min(_READ_BYTES, end - position), position)
            if len(data) < min(_READ_BYTES, end - position):
                raise OSError(f"{file.name} became shorter while it was read")
            whole.update(data)
            part.update(data)
        part_md5s.append(part.digest())
    return Digest(size=size, sha256=whole.hexdigest(), part_bytes=part_bytes, part_md5s=tuple(part_md5s))


def digest_bytes(data: bytes) -> Digest:
    """Return the digest of bytes that are uploaded in one part."""
    return Digest(
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        part_bytes=max(1, len(data)),
        part_md5s=(_md5(data),),
    )


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
