"""What a mismatch can be measured on; everything else is refused with one error, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from profiles.load import DEMO_MODEL
from tasks.comparison.mismatch_request import MismatchRequest, draw_rollouts, plan_mismatch
from tasks.errors import ConfigError
from tasks.plan.model_source import find_model
from tasks.records import RunPaths
from tests.support.harvest_command import harvest_here
from tests.support.synthetic import publish_shard, write_run
from tests.support.toy_model import edit

DEMO = find_model("demo")


def write_demo_run(root: Path) -> RunPaths:
    """A run that says that it sampled from the demo model."""
    run = write_run(
        root,
        comparable={
            "model": DEMO.weights_digest[:16],
            "tokenizer": DEMO.tokenizer_digest,
            "chat_template": DEMO.chat_template_digest,
        },
    )
    edit_config(run, lambda config: config.update(model={"name": "demo", "path": str(DEMO_MODEL)}))
    return run


def edit_config(run: RunPaths, change: Callable[[dict], object]) -> None:
    config = json.loads(run.config.read_text())
    change(config)
    run.config.write_text(json.dumps(config))


def plan(run: RunPaths, model: str | None = None) -> MismatchRequest:
    return plan_mismatch(run.root, model=model, sample=8, seed=0, device="cpu")


def test_a_run_of_the_demo_model_is_taken(tmp_path: Path) -> None:
    found = plan(write_demo_run(tmp_path / "run"))
    assert (found.model, found.same_weights, found.notes) == (DEMO_MODEL, True, ())
    assert (found.sample.rollouts, found.sample.eligible) == (8, 64)


def drop_logprobs(run: RunPaths) -> None:
    for index in (0, 1):
        edit(run.rollouts(index), pl.lit([], pl.List(pl.Float32)).alias("logprobs"))


def drop_prompts(run: RunPaths) -> None:
    for index in (0, 1):
        edit(run.rollouts(index), pl.lit(None, pl.List(pl.Int32)).alias("prompt_ids"))


def fail_all(run: RunPaths) -> None:
    for index in (0, 1):
        edit(run.rollouts(index), pl.lit("refused").alias("error"), pl.lit(0, pl.Int32).alias("num_completion_tokens"))


def with_weights(name: str) -> Callable[[RunPaths], None]:
    return lambda run: edit_config(run, lambda config: config["model"].update(name=name, path=name))


REFUSED: dict[str, tuple[Callable[[RunPaths], object], str]] = {
    "not finished": (
        lambda run: run.rollouts(1).unlink(),
        "is not a finished run: rollouts/shard-00001.parquet is",
    ),
    "random weights": (
        lambda run: edit_config(run, lambda config: config["profile"]["engine"].update(load_format="dummy")),
        "was made with random weights (load_format dummy)",
    ),
    "no logprobs": (drop_logprobs, "no logprob for each token, of run/"),
    "no prompts": (drop_prompts, "that were drawn): there is nothing to compare with"),
    "no tokens": (fail_all, "has no rollout with tokens: 64 are error rows or empty completions"),
    "model gone": (with_weights("/gone"), "the run's model is not here: model '/gone' is not a directory"),
    "other weights": (
        lambda run: edit_config(run, lambda config: config["comparable"].update(model="0" * 16)),
        "Name the weights to recompute with: --model PATH",
    ),
    "an adapter": (
        lambda run: edit_config(run, lambda config: config["model"].update(adapter={"path": "lora"})),
        "depend on an adapter as well, which is not recomputed",
    ),
    "what is not known": (
        lambda run: edit_config(run, lambda config: config["comparable"].update(steering="abc")),
        "depend on steering as well, which is not recomputed",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[RunPaths], object], told: str
) -> None:
    run = write_demo_run(tmp_path / "run")
    spoil(run)
    before = sorted(tmp_path.rglob("*"))
    assert harvest_here("mismatch", run.root, "--sample", "8") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sample", "0"], "--sample is 0; it must be at least 1 rollout"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--model", "/gone"], "--model '/gone' is not a directory"),
        (["--device", "tpu"], "'--device': 'tpu' is not one of 'cpu', 'cuda'"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    run = write_demo_run(tmp_path / "run")
    assert harvest_here("mismatch", run.root, *options) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert not run.mismatch.exists()
    assert not run.logs.exists()


def test_other_weights_are_taken_by_name(tmp_path: Path) -> None:
    run = write_demo_run(tmp_path / "run")
    other = Path(shutil.copytree(DEMO_MODEL, tmp_path / "other"))
    (other / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 1}))
    edit_config(run, lambda config: config["model"].update(adapter={"path": "lora"}))
    found = plan(run, str(other))
    assert (found.model, found.same_weights) == (other, False)
    assert found.notes == (
        f"{other} has another chat template than the run.",
        f"The outputs depend on an adapter as well, which counts only if {other} has it merged in.",
    )


@pytest.mark.parametrize(
    ("sampling", "engine", "notes"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "stop": ["x"]}, {}, []),
        (
            {"repetition_penalty": 1.0, "bad_words": [], "presence_penalty": 0.0, "sampling_mask": True},
            {"quantization": None},
            [],
        ),
        ({"repetition_penalty": 1.1}, {}, ["The run samples with repetition_penalty 1.1"]),
        ({}, {"quantization": "fp8"}, ["The engine ran with quantization fp8"]),
        ({}, {"vllm": {"kv_cache_dtype": "fp8"}}, ["The engine ran with kv_cache_dtype fp8"]),
        ({}, {"vllm": {"kv_cache_dtype": "auto"}}, []),
    ],
)
def test_what_is_not_recomputed_is_noted(tmp_path: Path, sampling: dict, engine: dict, notes: list[str]) -> None:
    run = write_demo_run(tmp_path / "run")
    edit_config(run, lambda config: config["config"]["sampling"].update(sampling))
    edit_config(run, lambda config: config["profile"]["engine"].update(engine))
    found = plan(run).notes
    assert len(found) == len(notes)
    assert all(note.startswith(told) for note, told in zip(found, notes, strict=True))


def test_error_rows_and_empty_completions_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2)
    rows = pl.read_parquet(run.rollouts(0))
    number = pl.int_range(pl.len())
    changed = rows.with_columns(
        error=pl.when(number < 3).then(pl.lit("refused")),
        num_completion_tokens=pl.when(number < 5).then(0).otherwise("num_completion_tokens"),
    )
    publish_shard(changed.match_to_schema(rows.schema, integer_cast="upcast"), run.rollouts(0))
    found = draw_rollouts(run.root, 1_000, 0)
    assert (found.rollouts, found.eligible, found.error_rows, found.empty_completions) == (59, 59, 3, 2)
    assert found.rows == {run.rollouts(0): tuple(range(5, 32)), run.rollouts(1): tuple(range(32))}


def test_a_sample_is_of_its_seed(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run").root
    first, again, other = (draw_rollouts(root, 10, seed) for seed in (1, 1, 2))
    assert (first, first.rollouts) == (again, 10)
    assert first.rows != other.rows


def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing or not a run's configuration"):
        plan(RunPaths(root=tmp_path))
