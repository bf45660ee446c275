"""A damaged small file of a run is set aside and named, and every sound one stays."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.comparison.equivalence_report import publish_equivalence
from tasks.comparison.mismatch_report import publish_mismatch
from tasks.errors import DamagedFile
from tasks.files import publish_json, publish_parquet, publish_text, read_json
from tasks.generation.generation_log import GenerationSession, add_session, read_sessions
from tasks.generation.rung_state import RungChange, RungState, save_rung
from tasks.node.preflight_report import PreflightReport, publish_preflight
from tasks.node.telemetry import TELEMETRY_SCHEMA, load_telemetry
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import find_run, open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import shard_dataset
from tasks.process_tree import record_processes
from tasks.results.damaged_files import set_aside_damaged
from tasks.results.finished_run import read_config
from tasks.results.run_report import RunReport, publish_report, read_report
from tasks.storage.multipart_uploads import MultipartRecords
from tasks.storage.published import recorded_path
from tasks.storage.run_files import published_files, run_fingerprint, write_manifest
from tasks.storage.upload_record import UploadRecord, update_upload_record
from tests.support.equivalence import equivalence_report
from tests.support.mismatch import mismatch_report
from tests.support.synthetic import publish_shard

SESSION = GenerationSession(
    started_at="2026-10-01T09:00:00+00:00",
    seconds=1.0,
    start_seconds=1.0,
    tokens=1,
    rollouts=1,
    restarts=0,
    replicas=1,
    gpus=0,
)
CHANGE = RungChange(at=SESSION.started_at, from_rung=0, to_rung=1, kind="host", phase="run", reason="", settings={})

Damage = Callable[[Path], object]


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def put_directory(path: Path) -> None:
    path.unlink()
    (path / "with").mkdir(parents=True)


def put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES: list[Damage] = [
    tear,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text('"of another type"'),
    lambda path: path.write_text("[" * 100_000),
    lambda path: path.write_bytes(b"\xff\xfe\x00"),
    put_directory,
    put_pipe,
    link_to_device,
]


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """A run with every small file that there may be, all sound."""
    plan = plan_run(config_from_parameters({"questions": 5, "shard_size": 4}), tmp_path / "runs")
    root, state = plan.paths.root, plan.paths.state
    open_run(plan)
    shard_dataset(plan)
    for path in (plan.paths.rollouts(0), plan.paths.scores(0)):
        publish_shard(pl.DataFrame({"a": [1]}), path)
    publish_report(RunReport.from_json(_report(plan)), root)
    publish_equivalence(equivalence_report("statistical"), root)
    publish_mismatch(mismatch_report(), root)
    publish_preflight(PreflightReport(checks=()), root)
    publish_parquet(pl.DataFrame(schema=TELEMETRY_SCHEMA), plan.paths.telemetry)
    add_session(state / "generation.json", SESSION)
    RungState(state / "oom_ladder.json").step_down(CHANGE)
    save_rung(plan, 1)
    record_processes(state / "replica-0.pid.json", [])
    MultipartRecords(state).add("bucket", "key")
    for name in ("README.md", "report.html", "logs/replica-0.log", "state/journal/shard-00000.jsonl"):
        publish_text("", root / name)
    write_manifest(root)
    update_upload_record(root, UploadRecord(url="s3://b", run_id=plan.run_id, fingerprint=plan.fingerprint))
    return plan


def _report(plan: RunPlan) -> dict[str, object]:
    return {**read_json(Path("tests/data/report.json")), "fingerprint": plan.fingerprint}


def files_of(plan: RunPlan) -> list[Path]:
    return sorted(path for path in plan.paths.root.parent.rglob("*") if not path.is_dir())


def records_of(plan: RunPlan) -> list[Path]:
    """The small files whose contents are checked."""
    return [path for path in files_of(plan) if path.suffix == ".json" or path == plan.paths.telemetry]


def test_sound_files_stay(plan: RunPlan) -> None:
    before = files_of(plan)
    assert len(records_of(plan)) == 22
    assert set_aside_damaged(plan) == []
    assert files_of(plan) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damaged_file_is_named_and_set_aside(plan: RunPlan, damage: Damage) -> None:
    before, damaged = files_of(plan), records_of(plan)
    for _ in ("once", "again, in place of the first"):
        for path in damaged:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'{"some": "JSON"}')
            damage(path)
        told = set_aside_damaged(plan)
        assert sorted(line.partition(" is damaged: ")[0] for line in told) == sorted(map(str, damaged))
        assert all(f"It is now {Path(line.partition(' ')[0]).name}.damaged, and " in line for line in told)
        assert all("\n" not in line for line in told)
    kept = [path for path in before if path not in damaged]
    aside = [path.with_name(f"{path.name}.damaged") for path in damaged]
    assert [path for path in files_of(plan) if path not in aside] == kept
    assert all(path.exists() or path.is_symlink() for path in aside)
    assert set_aside_damaged(plan) == []


@pytest.mark.parametrize("damage", [put_directory, put_pipe])
def test_whatever_takes_the_place_of_a_file_is_set_aside(plan: RunPlan, damage: Damage) -> None:
    files = [path for path in files_of(plan) if path.name != "lock"]
    for path in files:
        damage(path)
    told = set_aside_damaged(plan)
    assert sorted(line.partition(" is damaged: ")[0] for line in told) == sorted(map(str, files))
    open_run(plan)
    assert len(shard_dataset(plan)) == 2


def test_a_file_in_the_place_of_a_folder_is_set_aside(plan: RunPlan) -> None:
    folder = plan.paths.logs
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("")
    assert set_aside_damaged(plan) == [
        f"{folder} is damaged: it is not a directory. It is now logs.damaged, and is made again"
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_with_a_damaged_configuration_can_be_opened(plan: RunPlan, damage: Damage) -> None:
    damage(plan.paths.config)
    open_run(plan)
    assert read_config(plan.paths.root)["fingerprint"] == plan.fingerprint
    assert os.path.lexists(f"{plan.paths.config}.damaged")


def test_shards_that_are_not_on_record_are_named(plan: RunPlan) -> None:
    paths = plan.paths
    shutil.copy(paths.rollouts(0), paths.rollouts(1))
    shutil.copy(paths.rollouts(0), paths.rollouts(9))
    assert set_aside_damaged(plan) == [
        f"{paths.rollouts(1)} is damaged: its sha256 is not on record. It is now shard-00001.parquet.damaged, and is "
        "made again",
        f"{paths.rollouts(9)} is not a file of this run and is left out. Move it away",
    ]
    # its journal is there: a kill came right after it was published
    shutil.copy(paths.rollouts(0), paths.rollouts(1))
    paths.rollouts(9).unlink()
    publish_text("", paths.journal(1))
    assert set_aside_damaged(plan) == []


def test_nothing_of_another_run_is_touched(plan: RunPlan) -> None:
    publish_json({"fingerprint": "other"}, plan.paths.config, recorded_path)
    plan.paths.report.write_text("{")
    assert set_aside_damaged(plan) == []
    assert plan.paths.report.read_text() == "{"


def test_files_set_aside_are_not_published(plan: RunPlan) -> None:
    before = published_files(plan.paths.root)
    for name in before:
        publish_text("", plan.paths.root / f"{name}.damaged")
    assert published_files(plan.paths.root) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_readers_name_the_file_and_what_to_do(plan: RunPlan, damage: Damage) -> None:
    paths = plan.paths
    readers: list[tuple[Path, Callable[[], object]]] = [
        (paths.config, lambda: read_config(find_run(plan.run_id, paths.root.parent))),
        (paths.config, lambda: run_fingerprint(paths.root)),
        (paths.report, lambda: read_report(paths.root)),
        (paths.telemetry, lambda: load_telemetry(paths.telemetry)),
        (paths.state / "generation.json", lambda: read_sessions(paths.state / "generation.json")),
        (paths.state / "oom_ladder.json", lambda: RungState(paths.state / "oom_ladder.json")),
    ]
    for path in {path for path, _ in readers}:
        damage(path)
    for path, read in readers:
        with pytest.raises(DamagedFile, match="Run the command that made the run again") as raised:
            read()
        assert str(raised.value).startswith(f"{path} is damaged: ")
