"""The code of each card runs with its trainer's types, and makes what was sampled. TRL has a test of its own."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from tasks.export.export_run import export_run
from tasks.export.formats import FORMATS
from tasks.records import STORED_COLUMNS, RunPaths
from tests.support.card_code import run_card_code
from tests.support.synthetic import publish_shard, write_run

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


@pytest.fixture
def stored_run(tmp_path: Path) -> RunPaths:
    """A run that stored sampling masks and routed experts."""
    run = write_run(tmp_path / "run", shards=1, arms=1, samples=2, min_tokens=2, error_rows=0.05)
    frame = pl.read_parquet(run.rollouts(0))
    lengths = frame.select("num_prompt_tokens", "num_completion_tokens").rows()
    masks = [[[token, 7][: 1 + token % 2] for token in ids] for ids in frame["completion_ids"].to_list()]
    experts = [[[[token % 300, 299]] * 3 for token in range(max(0, sum(both) - 1))] for both in lengths]
    stored = {"sampling_mask": masks, "routed_experts": experts}
    columns = {
        name: pl.when(pl.col("error").is_null()).then(pl.Series(name, stored[name], dtype=kind))
        for name, kind in STORED_COLUMNS.items()
    }
    publish_shard(frame.with_columns(**columns), run.rollouts(0))
    return run


def test_prime_rl_replays_masks_and_experts(stored_run: RunPaths, tmp_path: Path) -> None:
    card, frame = exported(stored_run, "prime-rl", tmp_path / "out")

    for row, stored in zip(card["rows"], frame.iter_rows(named=True), strict=True):
        sample = card["training_sample"](row)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=type(sample)) == sample
        length, made = len(stored["token_ids"]), len(stored["sampling_mask"])
        counts = np.frombuffer(sample.sampling_mask.counts, np.int32).tolist()
        assert counts == [0] * (length - made) + [len(ids) for ids in stored["sampling_mask"]]
        ids = np.frombuffer(sample.sampling_mask.ids, np.int32).tolist()
        assert ids == [token for ids in stored["sampling_mask"] for token in ids]
        experts = np.frombuffer(sample.routed_experts.data, sample.routed_experts.dtype)
        experts = experts.reshape(sample.routed_experts.shape)
        assert experts[:-1].tolist() == stored["routed_experts"]
        assert experts.shape == (length, 3, 2)
        assert not experts[-1].any()


@pytest.mark.parametrize("to", ["parquet", "jsonl"])
def test_an_export_of_all_columns_has_the_stored_ones(stored_run: RunPaths, tmp_path: Path, to: str) -> None:
    export_run(stored_run.root, to, str(tmp_path / "out"))
    (path,) = (tmp_path / "out").glob("train-*")
    frame = pl.read_parquet(path) if to == "parquet" else pl.read_ndjson(path)
    assert frame["sampling_mask"].list.len().to_list() == frame["num_completion_tokens"].to_list()
    assert frame["routed_experts"].to_list()[0][0] == [[0, 299]] * 3


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
