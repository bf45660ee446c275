"""A run's files are read only when they have the bytes that were published."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError, DamagedFile, HarvestError
from tasks.export.export_run import export_run
from tasks.files import publish_json, publish_text, xxh3_file
from tasks.locks import run_lock
from tasks.records import RunPaths
from tasks.results.arm_ranking import rank_arms
from tasks.results.rescore import rescore_run
from tasks.results.rollout_search import RolloutFilter, find_rollouts
from tasks.results.run_list import list_runs
from tasks.results.summary import summarize_run
from tasks.storage.download import download_run
from tasks.storage.published import check_published, published_record, record_published, recorded_path
from tasks.storage.run_files import known_shards, problems_of_run, published_files, write_manifest
from tasks.storage.upload import upload_run
from tasks.storage.verify import verify_run
from tests.support.synthetic import write_run


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _swap(run: RunPaths) -> None:
    first, second, aside = run.rollouts(0), run.rollouts(1), run.root / "aside"
    first.rename(aside), second.rename(first), aside.rename(second)


def _take_other_run(run: RunPaths) -> None:
    other = write_run(run.root.parent / "other", shards=2, variant=1, divergence=0.5)
    shutil.copy(other.rollouts(1), run.rollouts(1))


def _edit_rewards(run: RunPaths) -> None:
    path = run.scores(1)
    pl.read_parquet(path).with_columns(reward=pl.lit(1.0, pl.Float32)).write_parquet(path)


DAMAGES: dict[str, tuple[Callable[[RunPaths], object], str]] = {
    "flipped bit": (lambda run: _flip(run.rollouts(1)), r"rollouts/shard-0000\d\.parquet is damaged"),
    "truncated": (
        lambda run: run.scores(0).write_bytes(run.scores(0).read_bytes()[:-9]),
        r"scores/shard-00000\.parquet is damaged",
    ),
    "empty": (lambda run: run.rollouts(0).write_bytes(b""), r"rollouts/shard-0000\d\.parquet is damaged"),
    "swapped": (_swap, r"rollouts/shard-0000\d\.parquet is damaged"),
    "shard of another run": (_take_other_run, r"rollouts/shard-00001\.parquet is damaged"),
    "edited rewards": (_edit_rewards, r"scores/shard-00001\.parquet is damaged"),
    "deleted rollouts": (lambda run: run.rollouts(1).unlink(), "is not a finished run"),
    "deleted questions": (lambda run: run.questions(0).unlink(), "is not a finished run"),
}

FOLDERS = ("questions", "rollouts", "scores")

READERS: dict[str, Callable[[Path, Path], object]] = {
    "upload": lambda run, out: upload_run(run, str(out)),
    "export": lambda run, out: export_run(run, "jsonl", str(out)),
    "report": lambda run, out: summarize_run(run),
    "arms": lambda run, out: rank_arms(run),
    "show": lambda run, out: list(find_rollouts(run, RolloutFilter())),
    "score": lambda run, out: rescore_run(run, "gsm8k"),
}


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    run = write_run(tmp_path / "run", shards=2)
    write_manifest(run.root)
    return run


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_never_passes(run: RunPaths, tmp_path: Path, damage: str, reader: str) -> None:
    change, told = DAMAGES[damage]
    manifest = run.manifest.read_bytes()
    change(run)
    if (reader == "show" and damage.startswith("deleted")) or (reader, damage) == ("score", "deleted questions"):
        pytest.skip("reads whatever is there of an unfinished run")
    if (reader, damage) in {("score", "edited rewards"), ("show", "swapped")}:
        told = "is damaged"
    with pytest.raises(HarvestError, match=told):
        READERS[reader](run.root, tmp_path / "out")
    assert run.manifest.read_bytes() == manifest
    assert problems_of_run(run.root)


def test_a_file_that_the_run_does_not_know_is_named_and_not_counted(
    run: RunPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("questions", "rollouts", "scores"):
        shutil.copy(run.root / folder / "shard-00001.parquet", run.root / folder / "shard-00009.parquet")
    with run_lock(run.state / "lock"):
        assert [*known_shards(run.root, "rollouts")] == [0, 1]
    # the run may be publishing it
    assert "is not a file of this run" not in caplog.text
    assert [*known_shards(run.root, "rollouts")] == [0, 1]
    assert "rollouts/shard-00009.parquet is not a file of this run" in caplog.text
    assert export_run(run.root, "jsonl", str(tmp_path / "out")).rollouts == 64
    assert len(upload_run(run.root, str(tmp_path / "bucket")).files) == 7
    assert [problem for problem in verify_run(run.root).problems if "rollouts" in problem] == [
        "rollouts/shard-00009.parquet is not a file of this run. Move it away"
    ]


@pytest.mark.parametrize("change", ['"num_shards": 1', '"num_shards": -1', '"num_shards": 1000000000'])
def test_a_damaged_number_of_shards_hides_none(run: RunPaths, change: str) -> None:
    run.config.write_text(run.config.read_text().replace('"num_shards": 2', change))
    for reader in READERS.values():
        with pytest.raises(DamagedFile, match=r"config\.json is damaged"):
            reader(run.root, run.root.parent / "out")
    # as in a run of an earlier version, which has no record of its config.json
    run.manifest.unlink()
    assert [*published_files(run.root)] == [
        "config.json",
        *(f"{name}/shard-0000{i}.parquet" for name in FOLDERS for i in "01"),
    ]


def test_verify_names_every_fault_of_a_local_run(run: RunPaths) -> None:
    assert verify_run(run.root).ok
    _flip(run.rollouts(0))
    run.scores(1).unlink()
    (run.root / "config.json").write_text((run.root / "config.json").read_text().replace("synthetic", "other"))
    problems = verify_run(run.root).problems
    assert [problem.split()[0] for problem in problems] == [
        "scores/shard-00001.parquet",
        "config.json",
        "rollouts/shard-00000.parquet",
    ]
    with pytest.raises(ConfigError, match="is not a run directory"):
        verify_run(run.root.parent)


def test_a_downloaded_run_is_checked_against_its_manifest(run: RunPaths, tmp_path: Path) -> None:
    upload_run(run.root, str(tmp_path / "bucket"))
    copy = RunPaths(root=download_run(str(tmp_path / "bucket" / "run"), tmp_path / "copies"))
    assert verify_run(copy.root).ok
    assert rank_arms(copy.root) == rank_arms(run.root)
    record = published_record(copy.rollouts(0))
    assert record is not None
    assert record.xxh3 == xxh3_file(run.rollouts(0))
    _flip(copy.scores(0))
    with pytest.raises(DamagedFile, match=r"scores/shard-00000\.parquet is damaged"):
        rank_arms(copy.root)
    # what is made on this machine has a record of its own, until it is downloaded again
    with recorded_path(copy.root / "README.md") as temporary:
        temporary.write_text("new")
    assert "README.md" not in str(problems_of_run(copy.root))
    assert verify_run(download_run(str(tmp_path / "bucket" / "run"), tmp_path / "copies")).ok


def test_a_kill_between_a_file_and_its_record_damages_neither(tmp_path: Path) -> None:
    path, old = tmp_path / "report.json", tmp_path / "old"
    publish_text("old", path, recorded_path)
    shutil.copy(path, old)
    record = tmp_path / "state" / "published" / "report.json.json"
    with recorded_path(path) as temporary:
        temporary.write_text("new")
    # the record comes first, and knows both until the file is there
    digests = [hashlib.sha256(text).hexdigest() for text in (b"new", b"old")]
    publish_json({"sha256": digests[0], "bytes": 3, "replaced": digests[1]}, record)
    check_published(path)
    old.replace(path)
    check_published(path)
    with recorded_path(path) as temporary:
        temporary.write_text("newer")
    check_published(path)
    # an old version is no better than a damaged one
    path.write_text("old")
    with pytest.raises(DamagedFile, match=r"report\.json is damaged: 5 bytes are on record, and there are 3"):
        check_published(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_text("garbage"), "manifest.json is damaged: "),
        (lambda path: (path.unlink(), path.mkdir()), "manifest.json is damaged: "),
        (
            lambda path: path.write_text(re.sub(r'"sha256": "....', '"sha256": "0000', path.read_text())),
            "manifest.json has another sha256 of questions/shard-00000.parquet than is on record",
        ),
    ],
    ids=["garbage", "a directory", "other hashes"],
)
def test_a_damaged_manifest_is_named(run: RunPaths, damage: Callable[[Path], object], told: str) -> None:
    assert verify_run(run.root).ok
    damage(run.manifest)
    assert any(problem.startswith(told) for problem in verify_run(run.root).problems)


def test_a_manifest_may_be_older_than_the_report(run: RunPaths) -> None:
    publish_text("new", run.report_html, recorded_path)
    assert verify_run(run.root).ok


def test_shards_that_are_gone_are_named_by_those_who_list_and_show(
    run: RunPaths, caplog: pytest.LogCaptureFixture
) -> None:
    (listed,) = list_runs(run.root.parent)
    assert listed.state == "finished"
    run.scores(0).unlink()
    (listed,) = list_runs(run.root.parent)
    assert listed.state == "interrupted"
    assert "has lost scores/shard-00000.parquet (1 in all)" in caplog.text
    caplog.clear()
    assert list(find_rollouts(run.root, RolloutFilter()))
    assert "it lacks scores/shard-00000.parquet (1 in all)" in caplog.text


def test_readers_compare_the_quick_hash_and_an_upload_the_sha256(run: RunPaths, tmp_path: Path) -> None:
    path, record = run.rollouts(0), run.state / "rollouts" / "shard-00000.json"
    published = published_record(path)
    assert published is not None
    assert published.xxh3 == xxh3_file(path)
    # a record of an earlier version, and one whose quick hash is wrong: the sha256 counts
    for xxh3 in (None, "0" * 32):
        publish_json({"sha256": published.sha256, "bytes": published.bytes, "xxh3": xxh3}, record)
        check_published(path)
        assert rank_arms(run.root)
    # who forges the quick hash deceives a reader, but no upload
    _flip(path)
    publish_json({"sha256": published.sha256, "bytes": published.bytes, "xxh3": xxh3_file(path)}, record)
    check_published(path)
    with pytest.raises(DamagedFile, match=rf"sha256 {published.sha256} is on record"):
        upload_run(run.root, str(tmp_path / "bucket"))
    assert not verify_run(run.root).ok


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"sha256": 3, "bytes": "x"}'])
def test_a_damaged_record_of_a_shard_counts_as_none(run: RunPaths, text: str) -> None:
    run.manifest.unlink()
    record = run.state / "rollouts" / "shard-00000.json"
    record.write_text(text)
    assert published_record(run.rollouts(0)) is None
    assert [*known_shards(run.root, "rollouts")] == [1]
    record_published(run.rollouts(0))
    assert [*known_shards(run.root, "rollouts")] == [0, 1]
