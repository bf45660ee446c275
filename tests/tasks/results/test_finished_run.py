"""A run with nothing left to do is recognised, and so is an unfinished run to resume."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tasks.comparison.equivalence_report import publish_equivalence
from tasks.files import publish_parquet, read_record
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import scores_made_from, shard_dataset
from tasks.records import ROLLOUT_SCHEMA, SCORE_SCHEMA
from tasks.results.finished_run import finished_report, planned_shards, unfinished_name
from tasks.results.run_report import RunReport, publish_report
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import record_published
from tasks.storage.run_files import write_manifest
from tasks.storage.upload_record import UploadRecord, update_upload_record
from tests.support.equivalence import equivalence_report

REPORT = Path("tests/data/report.json")
URL = "s3://bucket/rollouts"


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """A finished run of 5 questions in 2 shards, made without an engine."""
    plan = _plan(tmp_path, "nightly")
    open_run(plan)
    for shard in shard_dataset(plan):
        index, paths = shard.index, plan.paths
        rollouts = pl.DataFrame([pl.Series(name, [None] * shard.num_rollouts, kind) for name, kind in _types()])
        publish_parquet(rollouts, paths.rollouts(index))
        record_published(paths.rollouts(index))
        publish_parquet(pl.DataFrame(schema=SCORE_SCHEMA), paths.scores(index))
        made_from = scores_made_from(paths, index, load_scorer("gsm8k"))
        record_published(paths.scores(index), made_from=made_from)
    publish_report(_report(plan.fingerprint), plan.paths.root)
    publish_equivalence(equivalence_report("statistical"), plan.paths.root)
    write_manifest(plan.paths.root)
    record = UploadRecord(url=f"{URL}/{plan.run_id}", run_id=plan.run_id, fingerprint=plan.fingerprint, complete=True)
    update_upload_record(plan.paths.root, record)
    return plan


def test_planned_shards_equal_the_shards_on_disk(plan: RunPlan) -> None:
    assert planned_shards(plan) == shard_dataset(plan)


def test_a_finished_run_gives_its_report(plan: RunPlan) -> None:
    report = finished_report(plan, upload_url=f"{URL}/", require="statistical")
    assert report == replace(_report(plan.fingerprint), run_dir=str(plan.paths.root))


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan: plan.paths.manifest.unlink(),
        lambda plan: plan.paths.manifest.write_text("{}"),
        lambda plan: plan.paths.report.unlink(),
        lambda plan: plan.paths.report.write_text("{"),
        lambda plan: publish_report(_report("other"), plan.paths.root),
        lambda plan: plan.paths.rollouts(1).unlink(),
        lambda plan: plan.paths.scores(0).write_bytes(b"torn"),
        lambda plan: publish_equivalence(equivalence_report("inconclusive"), plan.paths.root),
        lambda plan: plan.paths.equivalence.write_text("{"),
        lambda plan: plan.paths.equivalence.unlink(),
        lambda plan: plan.paths.upload_record.unlink(),
        lambda plan: update_upload_record(
            plan.paths.root, UploadRecord(url=f"{URL}/{plan.run_id}", run_id=plan.run_id, fingerprint=plan.fingerprint)
        ),
    ],
)
def test_a_run_with_a_missing_or_damaged_file_is_unfinished(plan: RunPlan, damage: Callable[[RunPlan], object]) -> None:
    damage(plan)
    assert finished_report(plan, upload_url=URL, require="statistical") is None


def test_another_scorer_another_destination_or_a_stronger_tier_makes_a_run_unfinished(plan: RunPlan) -> None:
    assert finished_report(_plan(plan.paths.root.parent, "nightly", scorer="math")) is None
    assert finished_report(plan, upload_url="s3://elsewhere") is None
    assert finished_report(plan, require="bitwise") is None


def test_an_unfinished_run_with_the_same_fingerprint_is_resumed(plan: RunPlan) -> None:
    tomorrow = _plan(plan.paths.root.parent, "nightly-2")
    assert unfinished_name(tomorrow) is None
    plan.paths.manifest.unlink()
    assert unfinished_name(tomorrow) == "nightly"
    assert unfinished_name(_plan(plan.paths.root.parent, "nightly-2", seed=1)) is None


def _report(fingerprint: str) -> RunReport:
    report = read_record(REPORT, RunReport)
    assert report is not None
    return replace(report, fingerprint=fingerprint)


def _plan(runs_dir: Path, name: str, **values: object) -> RunPlan:
    return plan_run(config_from_parameters({"questions": 5, "shard_size": 3, "name": name, **values}), runs_dir)


def _types() -> list[tuple[str, pl.DataType]]:
    return list(ROLLOUT_SCHEMA.items())
