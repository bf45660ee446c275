"""Digests of files."""

from pathlib import Path

from tasks.storage.digests import digest_file


def test_parts_are_larger_when_the_file_would_need_too_many(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1001)
    with (tmp_path / "file").open("rb") as file:
        digest = digest_file(file, 10, max_parts=100)
    assert (digest.part_bytes, len(digest.part_md5s)) == (11, 91)
