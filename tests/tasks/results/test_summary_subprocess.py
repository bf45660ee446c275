"""A summary made in a subprocess is complete, and its failures keep their type."""

from pathlib import Path

import polars as pl
import pytest

from tasks.errors import StorageError
from tasks.files import publish_json
from tasks.plan.run_config import DatasetSource, RunConfig
from tasks.plan.run_plan import plan_run
from tasks.records import SCORE_SCHEMA, RunPaths, shard_indices
from tasks.results.run_report import read_report
from tasks.results.summary_subprocess import summarize_in_subprocess
from tests.support.synthetic import publish_shard, write_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8), shard_size=4), tmp_path)
    run = write_run(plan.paths.root, accuracy=1.0)
    publish_json(plan.to_json(), run.config)
    return run


def test_it_makes_the_report_and_the_views(run: RunPaths) -> None:
    report = summarize_in_subprocess(run.root)

    assert report == read_report(run.root)
    assert (report.num_rollouts, report.mean_reward, report.run_dir) == (64, 1.0, str(run.root))
    assert run.report_html.is_file()
    assert (run.root / "README.md").is_file()


@pytest.mark.parametrize("error_rows", [0.0, 1.0], ids=["no reward", "error rows"])
def test_a_run_without_rewards_has_its_views(tmp_path: Path, error_rows: float) -> None:
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8), shard_size=4), tmp_path)
    run = write_run(plan.paths.root, error_rows=error_rows)
    publish_json(plan.to_json(), run.config)
    for index in shard_indices(run.root / "scores"):
        scores = pl.read_parquet(run.scores(index))
        publish_shard(scores.with_columns(reward=pl.lit(None, SCORE_SCHEMA["reward"])), run.scores(index))

    assert summarize_in_subprocess(run.root).mean_reward is None
    assert run.report_html.is_file()
    assert "| mean reward | none |" in (run.root / "README.md").read_text()


def test_a_failure_has_its_type(run: RunPaths) -> None:
    run.report.mkdir()
    with pytest.raises(StorageError, match=r"could not write .*report\.json"):
        summarize_in_subprocess(run.root)


def test_a_view_that_fails_is_a_warning(run: RunPaths, caplog: pytest.LogCaptureFixture) -> None:
    run.report_html.mkdir()
    assert summarize_in_subprocess(run.root).num_rollouts == 64

    (record,) = caplog.records
    assert record.getMessage().startswith("report.html could not be made")
    assert "StorageError" in (run.logs / "summary.log").read_text()
    assert (run.root / "README.md").is_file()
