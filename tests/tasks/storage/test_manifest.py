"""The manifest lists exactly what a run publishes."""

import hashlib
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError, DamagedFile, StorageError
from tasks.files import publish_json
from tasks.storage.manifest import parse_manifest
from tasks.storage.run_files import build_manifest, missing_shards, run_fingerprint, write_manifest
from tests.support.synthetic import write_run

UNPUBLISHED = (
    "state/journal/shard-00000.jsonl",
    "logs/engine.log",
    "upload_receipt.json",
    "rollouts/.shard-00001.parquet.123.tmp",
    "rollouts/notes.txt",
    ".hidden",
)


def test_every_published_file_is_listed_with_rows_size_and_hash(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2, questions_per_shard=3, arms=4)
    publish_json({"verdict": "statistical"}, run.equivalence)
    (run.root / "README.md").write_text("notes")
    for name in UNPUBLISHED:
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_text("{}")

    manifest = write_manifest(run.root)

    assert (manifest.run_id, manifest.fingerprint, manifest.equivalence) == (
        "run",
        run_fingerprint(run.root),
        "statistical",
    )
    folders = ("questions", "rollouts", "scores")
    shards = {f"{folder}/shard-{index:05d}.parquet" for folder in folders for index in (0, 1)}
    assert {file.path for file in manifest.files} == shards | {"config.json", "equivalence.json", "README.md"}
    for file in manifest.files:
        path = run.root / file.path
        assert file.bytes == path.stat().st_size
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file.rows == (pl.read_parquet(path).height if path.suffix == ".parquet" else None)
    assert parse_manifest(run.manifest.read_bytes()) == manifest


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    write_manifest(run.root)
    first = run.manifest.read_bytes()
    write_manifest(run.root)
    assert run.manifest.read_bytes() == first


def test_a_run_that_was_not_compared_has_no_verdict(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    assert write_manifest(run.root).equivalence is None


@pytest.mark.parametrize("text", ["", "[]", '{"verdict": 3}', "[" * 100_000], ids=["empty", "list", "number", "deep"])
def test_a_damaged_comparison_gives_no_verdict(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run", shards=1)
    run.equivalence.write_text(text)
    assert write_manifest(run.root).equivalence is None


def test_the_error_names_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    run.telemetry.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"telemetry\.parquet is not readable"):
        build_manifest(run.root)


def test_missing_shards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=3)
    assert missing_shards(run.root) == []
    run.rollouts(1).unlink()
    run.scores(2).unlink()
    assert missing_shards(run.root) == ["rollouts/shard-00001.parquet", "scores/shard-00002.parquet"]


@pytest.mark.parametrize("config", [None, '{"fingerprint": ""}'])
def test_a_directory_without_a_fingerprint_is_no_run(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="is not a run directory"):
        run_fingerprint(tmp_path)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"fingerprint": 7}', "[" * 100_000])
def test_a_damaged_configuration_is_named(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(DamagedFile, match=r"config\.json is damaged"):
        run_fingerprint(tmp_path)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"files": [{}]}'])
def test_a_damaged_manifest_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_manifest(body)
