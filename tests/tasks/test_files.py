"""Files appear whole or not at all, and records are read back or their damage is named."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import DamagedFile, StorageError
from tasks.files import (
    atomic_path,
    publish_json,
    publish_parquet,
    read_json,
    read_record,
    remove_stale_temporaries,
    sha256_file,
)
from tasks.storage.manifest import ManifestFile


def test_published_values_read_back(tmp_path: Path) -> None:
    frame = pl.DataFrame({"reward": [1.0, None]})
    publish_parquet(frame, tmp_path / "a" / "scores.parquet")
    publish_json({"text": "größer"}, tmp_path / "a" / "config.json")

    assert pl.read_parquet(tmp_path / "a" / "scores.parquet").equals(frame)
    assert read_json(tmp_path / "a" / "config.json") == {"text": "größer"}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "scores.parquet"]


def test_a_failed_writer_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    publish_json({"version": 1}, tmp_path / "config.json")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(tmp_path / "config.json") as temporary:  # noqa: PT012
        temporary.write_text('{"vers')
        raise RuntimeError("half way")

    assert read_json(tmp_path / "config.json") == {"version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [b"", b'{"cut', b"\xff\xfe", b"[" * 100_000])
def test_a_truncated_json_file_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    assert read_json(tmp_path / "state.json") is None


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_reads_as_none_and_ends_no_reader(tmp_path: Path, put: Callable[[Path], object]) -> None:
    put(tmp_path / "state.json")
    assert read_json(tmp_path / "state.json") is None


def test_a_storage_error_names_the_path_where_a_directory_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(StorageError, match=r"config\.json"):
        publish_json({}, tmp_path / "config.json")


def test_a_killed_writer_leaves_a_temporary_that_is_removed_later(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from tasks.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "report.json")], cwd=Path.cwd(), check=False)
    mine = tmp_path / f".other.json.{os.getpid()}.tmp"
    mine.write_text("of a living writer")

    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "report.json").exists()
    remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_record_reads_back_and_unknown_keys_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert read_record(path, ManifestFile) is None
    publish_json({"path": "a", "rows": None, "bytes": 3, "sha256": "00", "newer": 1}, path)
    assert read_record(path, ManifestFile) == ManifestFile(path="a", rows=None, bytes=3, sha256="00")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("[]", "object"),
        ('{"path": "a", "rows": "many", "bytes": 3, "sha256": "00"}', "rows"),
        ('{"path": "a"}', "rows"),
    ],
    ids=["empty", "deep", "list", "wrong type", "missing"],
)
def test_the_error_names_the_damaged_file(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=f"file.json is damaged: .*{wrong}"):
        read_record(path, ManifestFile)


def test_two_who_write_the_same_file_at_a_time_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
