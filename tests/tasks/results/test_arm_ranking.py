"""Arms are ranked, compared with each other, and put to a vote."""

from pathlib import Path

import polars as pl
import pytest

from flows.console import PlainConsole
from tasks.errors import ConfigError
from tasks.files import publish_json
from tasks.results.arm_ranking import agreement, oracle_credit, rank_arms
from tasks.results.arm_ranking_view import render_ranking
from tasks.results.sampling_metrics import majority_credit
from tasks.results.scored_rollouts import load_metric_rows
from tests.support.harvest_command import Tell
from tests.support.report_run import write_report_run
from tests.support.synthetic import publish_shard, write_run

VOTES = [
    # question, arm, answer, reward
    ("q1", "a", "4", 1.0),
    ("q1", "b", "4", 1.0),
    ("q1", "c", "5", 0.0),
    ("q2", "a", "7", 0.0),
    ("q2", "b", "8", 1.0),
    ("q2", "c", "7", 0.0),
    ("q3", "a", "1", 1.0),
    ("q3", "b", "2", 0.0),
    ("q3", "c", None, 0.0),
    ("q4", "a", None, 0.0),
    ("q4", "b", None, 0.0),
    ("q4", "c", None, 0.0),
]


@pytest.fixture
def votes() -> pl.DataFrame:
    frame = pl.DataFrame(VOTES, schema=["example_id", "arm_id", "extracted_answer", "reward"], orient="row")
    return frame.with_columns(sample_index=pl.lit(0))


def test_majority_and_oracle(votes: pl.DataFrame) -> None:
    majority = majority_credit(votes, ["example_id", "sample_index"])
    oracle = oracle_credit(votes)

    assert dict(majority.select("example_id", "reward").iter_rows()) == {"q1": 1.0, "q2": 0.0, "q3": 0.5, "q4": 0.0}
    assert dict(oracle.select("example_id", "reward").iter_rows()) == {"q1": 1.0, "q2": 1.0, "q3": 1.0, "q4": 0.0}


def test_agreement_is_about_answers_that_were_given(votes: pl.DataFrame) -> None:
    assert agreement(votes, ["a", "b", "c"]) == ((1.0, 1 / 3, 0.5), (1 / 3, 1.0, 0.0), (0.5, 0.0, 1.0))
    without = votes.filter((pl.col("arm_id") != "c") | (pl.col("example_id") == "q1"))
    assert agreement(without, ["a", "c"]) == ((1.0, 0.0), (0.0, 1.0))
    disjoint = votes.filter((pl.col("arm_id") == "a") ^ (pl.col("example_id") == "q1"))
    assert agreement(disjoint, ["a", "b"])[0][1] is None


def test_rewards_alone_have_no_votes_and_an_oracle_that_is_no_less_than_an_arm(
    votes: pl.DataFrame, tmp_path: Path
) -> None:
    rewards = votes.with_columns(reward=pl.lit(0.25), extracted_answer=pl.lit(None, pl.String))
    assert agreement(rewards, ["a", "b"]) == ((None, None), (None, None))
    assert oracle_credit(rewards)["reward"].to_list() == [0.25] * 4

    run = write_run(tmp_path / "run", arms=2)
    for path in (run.scores(0), run.scores(1)):
        scores = pl.read_parquet(path).with_columns(extracted_answer=pl.lit(None, pl.String), reward=pl.lit(0.25))
        publish_shard(scores.cast({"reward": pl.Float32}), path)
    ranking = rank_arms(run.root)
    assert ranking.majority is None
    assert ranking.oracle.accuracy == ranking.arms[0].mean_reward == 0.25
    assert [arm.correct for arm in ranking.arms] == [0, 0]
    publish_json({"config": {"right_at": 0.25}}, run.config)
    assert all(arm.correct == arm.rollouts for arm in rank_arms(run.root).arms)
    console = PlainConsole(width=160)
    with console.capture() as captured:
        console.print(render_ranking(ranking))
    assert "majority vote over arms: -" in captured.get()


def test_a_large_difference_is_real_and_a_small_one_is_not(tmp_path: Path) -> None:
    accuracy = {"step_by_step": 0.9, "concise": 0.85, "algebra": 0.3}
    run = write_run(tmp_path / "run", questions_per_shard=50, arms=3, samples=2, tokens=30, accuracy=accuracy)
    report = rank_arms(run.root)
    standings = {arm.arm_id: arm for arm in report.arms}

    assert [arm.rank for arm in report.arms] == [1, 2, 3]
    assert {*standings["algebra"].worse_than} == {"step_by_step", "concise"}
    assert standings["step_by_step"].better_than == ("algebra",)
    assert report.real_differences == 2
    assert report.oracle.accuracy > report.arms[0].mean_reward
    rows = load_metric_rows(run).filter(pl.col("arm_id") == "algebra")
    correct = int((rows["reward"] == 1).sum())
    assert standings["algebra"].correct == correct
    assert standings["algebra"].tokens_per_correct == pytest.approx(200 * 30 / correct)
    assert standings["algebra"].gpu_seconds_per_correct is None


def test_gpu_time_is_shared_by_tokens(tmp_path: Path) -> None:
    run = write_report_run(tmp_path / "run", questions_per_shard=10, arms=2, samples=2, top_k=3, accuracy=0.6)
    report = rank_arms(run.root)

    spent = [arm.gpu_seconds_per_correct * arm.correct for arm in report.arms if arm.gpu_seconds_per_correct]
    assert sum(spent) == pytest.approx(2 * 480)


def test_bad_input(tmp_path: Path, tell: Tell) -> None:
    with pytest.raises(ConfigError, match="1 scored arms; two are needed"):
        rank_arms(write_run(tmp_path / "single", arms=1).root)
    assert tell("arms", "nowhere").code == 2


@pytest.mark.parametrize("accuracy", [0.5, {"step_by_step": 1.0, "concise": 0.0}])
def test_view(accuracy: float | dict[str, float], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", questions_per_shard=20, arms=2, accuracy=accuracy)
    console = PlainConsole(width=160)
    with console.capture() as captured:
        console.print(render_ranking(rank_arms(run.root)))
    shown = captured.get()

    assert ("1 of 1 pairs really differ" in shown) == isinstance(accuracy, dict)
    assert ("More questions would tell" in shown) == isinstance(accuracy, float)
    assert "majority vote over arms" in shown


def test_command(tmp_path: Path, tell: Tell) -> None:
    run = write_run(tmp_path / "run", arms=2)
    assert len(tell("arms", run.root, "--json").report["arms"]) == 2
    assert "Arms of run" in tell("arms", run.root).stdout
