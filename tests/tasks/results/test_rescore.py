import json
from pathlib import Path

import polars as pl
import pytest

from profiles.arm_schema import Arm
from tasks.errors import ConfigError, RunLocked
from tasks.locks import run_lock
from tasks.node.prompt_check import record_prompts
from tasks.plan.prompts import ChatTokenizer, encode_question
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import plan_run
from tasks.plan.shards import shard_dataset
from tasks.records import SCORE_SCHEMA
from tasks.results.rescore import RewardChange, rescore_run
from tasks.scoring.score_shard import score_shard
from tasks.storage.published import record_published
from tests.support.chat_templates import THINKS, model_with
from tests.support.synthetic import publish_shard

COMPLETIONS = [["#### 18", "it is 18", "none"], ["it is 5", "#### 18\nso 18", None]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "run-1"
    (run / "rollouts").mkdir(parents=True)
    for shard, completions in enumerate(COMPLETIONS):
        name = f"shard-{shard:05d}.parquet"
        frame = pl.DataFrame(
            {
                "rollout_id": [f"s{shard}r{row}" for row in range(3)],
                "example_id": "e",
                "completion": completions,
                "ground_truth": "18",
                "finish_reason": "stop",
                "error": [None if text else "EngineCrashed: gone" for text in completions],
            },
            schema_overrides={"error": pl.String},
        )
        publish_shard(frame, run / "rollouts" / name)
        score_shard(run / "rollouts" / name, run / "scores" / name)
        record_published(run / "scores" / name)
    return run


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_new_scores_stand_beside_the_old_and_changes_are_listed(run_dir: Path) -> None:
    before = files(run_dir / "scores")
    report = rescore_run(run_dir, "tests.support.custom_scorers:last_word")
    assert files(run_dir / "scores") == before
    assert report.directory == run_dir / "scores@tests.support.custom_scorers-last_word-7"
    assert (report.shards, report.rollouts, report.changed, report.unscored) == (2, 6, 1, 0)
    assert report.changes == (
        RewardChange(rollout_id="s0r1", old_reward=0.0, new_reward=1.0, old_extracted=None, new_extracted="18"),
    )
    assert report.old_mean_reward == pytest.approx(2 / 5)
    assert report.new_mean_reward == pytest.approx(3 / 5)
    new = pl.read_parquet(report.directory / "shard-*.parquet")
    assert new.schema == SCORE_SCHEMA
    assert new.height == 6
    assert pl.read_parquet(report.directory / "changes.parquet")["rollout_id"].to_list() == ["s0r1"]


def test_the_same_scorer_changes_nothing_and_can_run_twice(run_dir: Path) -> None:
    first = rescore_run(run_dir, "gsm8k")
    second = rescore_run(run_dir, "gsm8k")
    assert first == second
    assert (first.changed, first.changes) == (0, ())


def test_a_shard_without_old_scores_is_counted_and_not_compared(run_dir: Path) -> None:
    (run_dir / "scores" / "shard-00001.parquet").unlink()
    report = rescore_run(run_dir, "tests.support.custom_scorers:length")
    assert (report.rollouts, report.unscored, report.changed) == (6, 3, 3)


def test_a_directory_without_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no rollouts to score"):
        rescore_run(tmp_path, "gsm8k")


@pytest.mark.parametrize("right_at", [float("nan"), float("inf"), float("-inf")])
def test_a_threshold_that_is_no_finite_number_is_refused(right_at: float, run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"--right-at is -?(nan|inf): input should be a finite number"):
        rescore_run(run_dir, "gsm8k", right_at)
    assert not list(run_dir.glob("scores@*"))


def test_a_run_on_which_another_process_works_is_not_scored(run_dir: Path) -> None:
    with run_lock(run_dir / "state" / "lock"), pytest.raises(RunLocked, match="is in use by"):
        rescore_run(run_dir, "gsm8k")
    assert not list(run_dir.glob("scores@*"))


@pytest.mark.parametrize("recorded", [True, False], ids=["prompts on record", "an earlier run"])
@pytest.mark.parametrize("model_is_there", [True, False])
def test_reasoning_that_the_template_began_is_known_from_the_record_or_the_model(
    recorded: bool, model_is_there: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_with(THINKS, tmp_path / "model")
    arm, question = Arm(id="a", system_prompt="Use <think>."), "9 times 2?"
    plan = plan_run(
        config_from_parameters(
            {"model": str(model), "arms": write_arms(tmp_path, arm), "dataset": write_question(tmp_path, question)}
        ),
        tmp_path / "runs",
    )
    open_run(plan)
    shard_dataset(plan)
    if recorded:
        record_prompts(plan)
    ids = encode_question(ChatTokenizer(model), [arm], question)["a"]
    frame = pl.DataFrame(
        {
            "rollout_id": ["r"],
            "example_id": "q",
            "prompt_ids": [ids],
            "completion": "so \\boxed{18} but let me check",
            "ground_truth": "18",
            "finish_reason": "length",
            "error": None,
        },
        schema_overrides={"error": pl.String, "prompt_ids": pl.List(pl.Int32)},
    )
    publish_shard(frame, plan.paths.rollouts(0))
    if not model_is_there:
        (model / "config.json").unlink()
    report = rescore_run(plan.paths.root, "gsm8k")
    known = recorded or model_is_there
    assert report.new_mean_reward == (0 if known else 1)
    assert ("is not known" in caplog.text) == (not known)


def write_arms(folder: Path, arm: Arm) -> str:
    (folder / "arms.toml").write_text(f'[[arms]]\nid = "{arm.id}"\nsystem_prompt = "{arm.system_prompt}"\n')
    return str(folder / "arms.toml")


def write_question(folder: Path, question: str) -> str:
    (folder / "questions.jsonl").write_text(json.dumps({"question": question, "answer": "18"}))
    return str(folder / "questions.jsonl")
