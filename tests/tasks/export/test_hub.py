"""The dataset and the card that a push would send, built locally."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from tasks.comparison.equivalence_report import publish_equivalence
from tasks.errors import ConfigError
from tasks.export.hub import build_dataset, push_to_hub
from tasks.records import ROLLOUT_SCHEMA, SCORE_SCHEMA
from tasks.results.run_card import build_hub_card
from tasks.storage.run_files import run_fingerprint
from tests.support.equivalence import equivalence_report
from tests.support.synthetic import write_run


def test_the_dataset_has_every_rollout_with_its_score(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=3, questions_per_shard=2, arms=4, error_rows=0.2, top_k=2)
    dataset = build_dataset(run.root, tmp_path / "cache")

    assert set(dataset.column_names) == {*ROLLOUT_SCHEMA.names(), *SCORE_SCHEMA.names()}
    rollouts = pl.read_parquet(run.root / "rollouts" / "*.parquet")
    scores = pl.read_parquet(run.root / "scores" / "*.parquet")
    expected = rollouts.join(scores, on="rollout_id")
    assert dataset["rollout_id"][:] == expected["rollout_id"].to_list()
    assert dataset["reward"][:] == expected["reward"].to_list()
    assert dataset["completion_ids"][:] == expected["completion_ids"].to_list()
    assert dataset["prompt"][0] == expected["prompt"].to_list()[0]


def test_a_run_without_scores_is_a_dataset_without_rewards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1, with_scores=False)
    assert set(build_dataset(run.root, tmp_path / "cache").column_names) == set(ROLLOUT_SCHEMA.names())
    assert "mean reward | none" in build_hub_card(run.root)


def test_the_card_states_the_runs_facts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2, questions_per_shard=5, arms=3, accuracy=1.0)
    publish_equivalence(equivalence_report("numerical"), run.root)
    card = build_hub_card(run.root)

    header = yaml.safe_load(card.split("---")[1])
    assert "rollouts" in header["tags"]
    for fact in (
        "30 rollouts of 10 questions under 3 system prompts",
        "synthetic-model",
        "mean reward | 1.0000",
        "baseline | numerical",
        run_fingerprint(run.root),
    ):
        assert fact in card


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "with space/name", "org/name--"])
def test_a_repository_that_cannot_be_is_refused_before_any_work(repo_id: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Write ORG/NAME"):
        push_to_hub(tmp_path, repo_id)


def test_an_unfinished_run_is_not_pushed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2)
    run.scores(1).unlink()
    with pytest.raises(ConfigError, match="is not a finished run"):
        push_to_hub(run.root, "org/name")
