"""A run directory is a dataset repository as it is."""

import json
from pathlib import Path

import polars as pl
import pytest
from datasets import load_dataset

from tasks.errors import ConfigError
from tasks.records import LATER_ROLLOUT_COLUMNS, RunPaths
from tasks.results.run_card import FOLDERS, MEANINGS, build_hub_card, publish_card
from tasks.results.summary_subprocess import publish_page_and_card
from tasks.storage.run_files import published_files
from tests.support.card_code import run_card_code
from tests.support.report_run import write_report_run
from tests.support.stopped_rollouts import write_stopped_run
from tests.support.synthetic import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    run = write_report_run(tmp_path_factory.mktemp("runs") / "run", questions_per_shard=3, arms=2, samples=2, top_k=3)
    publish_page_and_card(run.root)
    return run


@pytest.mark.parametrize("name", [None, *FOLDERS])
def test_the_directory_loads_as_it_is(name: str | None, run: RunPaths, tmp_path: Path) -> None:
    dataset = load_dataset(str(run.root), name, split="train", cache_dir=str(tmp_path))

    stored = pl.read_parquet(run.root / (name or "rollouts") / "shard-*.parquet")
    assert (dataset.num_rows, dataset.column_names) == (stored.height, stored.columns)
    assert dataset[0][stored.columns[0]] == stored[stored.columns[0]][0]


def test_the_card_code_joins_rollouts_and_scores(run: RunPaths) -> None:
    scored = run_card_code(run.root, cwd=run.root.parent)["scored"]

    scores = {
        row["rollout_id"]: row for row in pl.read_parquet(run.root / "scores" / "*.parquet").iter_rows(named=True)
    }
    assert [row["reward"] for row in scored] == [scores[row["rollout_id"]]["reward"] for row in scored]


def test_the_card_is_published_with_the_run(run: RunPaths) -> None:
    assert {"README.md", "report.html"} <= {*published_files(run.root)}


def test_every_column_has_a_meaning(run: RunPaths) -> None:
    names = {name for schema in FOLDERS.values() for name in schema}
    assert names | LATER_ROLLOUT_COLUMNS.keys() == MEANINGS.keys()
    text = (run.root / "README.md").read_text()
    assert all(f"| {name} |" in text for name in names)
    assert "| completion_ids | list of int32 |" in text
    assert "| prompt | list of {role, content} |" in text
    assert "harvest run --profile h100x8" in text


def test_a_warning_is_a_paragraph_of_its_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1)
    config = json.loads(run.config.read_text())
    run.config.write_text(json.dumps(config | {"config": {"sampling": {"top_k": 3}}}))
    assert "\n\nWarning: logprobs are of the distribution that top\\_k 3 truncates" in build_hub_card(run.root)


def test_the_card_says_that_a_rule_stopped_groups(tmp_path: Path) -> None:
    run = write_stopped_run(tmp_path / "run", "mixed", shards=1, questions_per_shard=2, arms=1)
    publish_card(run.root)
    assert "2 to 8 samples of a question under an arm, until mixed" in (run.root / "README.md").read_text()


def test_an_unscored_run_has_no_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "unscored", with_scores=False)
    with pytest.raises(ConfigError, match="is not scored"):
        publish_card(run.root)
    assert not (run.root / "README.md").exists()


def test_a_failing_view_leaves_the_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "unscored", with_scores=False)
    assert publish_page_and_card(run.root) == ["report.html", "README.md"]
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["report.html", "README.md"]
