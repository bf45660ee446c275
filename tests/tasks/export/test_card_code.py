"""The code of each card runs with its trainer's types, and makes what was sampled. TRL has a test of its own."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from tasks.export.export_run import export_run
from tasks.export.formats import FORMATS
from tasks.records import RunPaths
from tests.support.card_code import run_card_code
from tests.support.synthetic import write_run

SAMPLES = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    root = tmp_path_factory.mktemp("runs") / "run"
    return write_run(root, arms=2, samples=SAMPLES, min_tokens=1, error_rows=0.05, truncated=0.2)


def exported(run: RunPaths, to: str, out: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Export the run, and run the code of its card."""
    report = export_run(run.root, to, str(out))
    assert report.rollouts < report.rollouts_read
    return run_card_code(out), pl.read_parquet(out / "train-*.parquet")


@pytest.mark.parametrize("to", [name for name, target in FORMATS.items() if target.for_training])
def test_a_card_names_the_version_that_it_was_tried_with(to: str, run: RunPaths, tmp_path: Path) -> None:
    export_run(run.root, to, str(tmp_path / "out"))
    assert f"tried with {FORMATS[to].source}." in (tmp_path / "out" / "README.md").read_text()


def test_prime_rl(run: RunPaths, tmp_path: Path) -> None:
    card, frame = exported(run, "prime-rl", tmp_path / "out")

    assert len(card["rows"]) == frame.height
    for row, stored in zip(card["rows"], frame.iter_rows(named=True), strict=True):
        sample = card["training_sample"](row)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=type(sample)) == sample
        assert {name: getattr(sample, name) for name in card["FIELDS"]} == {
            name: stored[name] for name in card["FIELDS"]
        }


def test_openrlhf(run: RunPaths, tmp_path: Path) -> None:
    card, frame = exported(run, "openrlhf", tmp_path / "out")

    assert len(card["rows"]) == frame.height
    for row, stored in zip(card["rows"], frame.iter_rows(named=True), strict=True):
        batch = card["experience"](row)
        assert batch.sequences.tolist() == [stored["sequences"]]
        acted = batch.action_mask.bool()
        assert batch.sequences[:, 1:][acted].tolist() == stored["sequences"][-stored["response_length"] :]
        assert batch.rollout_log_probs.shape == batch.action_mask.shape
        assert batch.rewards.tolist() == batch.info["reward"].tolist() == [stored["rewards"]]
        assert (batch.truncated.tolist(), batch.total_length.tolist()) == (
            [stored["truncated"]],
            [stored["total_length"]],
        )


def test_verl_gets_every_rollout_once_from_the_agent_loop(run: RunPaths, tmp_path: Path) -> None:
    card, frame = exported(run, "verl", tmp_path / "out")

    prompts = pl.read_parquet(tmp_path / "out" / "prompts.parquet")
    assert prompts["agent_name"].unique().to_list() == ["stored_rollouts"]
    assert "_target_: stored_rollouts.StoredRollouts" in (tmp_path / "out" / "agent_loops.yaml").read_text()
    loop = card["StoredRollouts"]()
    # verl runs each row of its dataset rollout.n times
    outputs = [
        (row, asyncio.run(loop.run({}, **row, session_id=session)))
        for row in prompts.iter_rows(named=True)
        for session in range(card["ROLLOUT_N"])
    ]
    for (row, output), stored in zip(outputs, frame.iter_rows(named=True), strict=True):
        assert (output.prompt_ids, output.response_ids) == (stored["prompts"], stored["responses"])
        assert (output.response_mask, output.response_logprobs) == (
            stored["response_mask"],
            stored["rollout_log_probs"],
        )
        assert output.reward_score == sum(stored["rm_scores"])
        assert (row["prompt"], row["reward_model"]) == (stored["prompt"], stored["reward_model"])


def test_no_column_of_verls_prompts_is_named_as_a_part_of_a_rollout(run: RunPaths, tmp_path: Path) -> None:
    exported(run, "verl", tmp_path / "out")

    # verl lays a prompt's columns over the rollout: a column of the same name would take its place
    rollout = {"prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "num_turns", "metrics", "uid"}
    assert not rollout & {*pl.read_parquet_schema(tmp_path / "out" / "prompts.parquet")}
