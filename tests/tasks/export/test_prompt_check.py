"""Prompts of which a trainer would make other token ids than those sampled are refused; others are exported."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.export.export_run import export_run
from tasks.export.filters import ExportFilters
from tasks.files import publish_json, read_json
from tasks.records import RunPaths
from tests.support.harvest_command import harvest_here
from tests.support.synthetic import publish_shard, write_run

Settings = dict[str, dict[str, Any]]
PLAIN: dict[str, Any] = {"prompt_format": "plain"}
NO_THINKING: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
TOOLS: dict[str, Any] = {"chat_template_kwargs": {"tools": [{"type": "function"}]}}
FEW_SHOT: dict[str, Any] = {"few_shot": [{"user": "1 + 1?", "assistant": "2"}]}


def run_with(root: Path, settings: Settings) -> RunPaths:
    """Write a run whose arms have these settings."""
    run = write_run(root, shards=1, arms=list(settings), samples=2)
    config = read_json(run.config)
    assert isinstance(config, dict)
    publish_json({**config, "arms": [{"id": arm, **values} for arm, values in settings.items()]}, run.config)
    plain = [arm for arm, values in settings.items() if values == PLAIN]
    text = pl.concat_list(pl.struct(role=pl.lit("text"), content=pl.lit("Q: 1 + 1?")))
    rollouts = pl.read_parquet(run.rollouts(0))
    prompt = pl.when(pl.col("arm_id").is_in(plain)).then(text).otherwise(pl.col("prompt"))
    publish_shard(rollouts.with_columns(prompt=prompt), run.rollouts(0))
    return run


@pytest.mark.parametrize(
    ("to", "settings", "message"),
    [
        ("verl", {"a": PLAIN}, "the prompts of a are plain texts.* target that takes ids: openrlhf, prime-rl"),
        ("verl", {"a": {}, "b": PLAIN}, "the prompts of b are plain texts"),
        ("verl", {"a": NO_THINKING, "b": {}}, "b has other chat_template_kwargs than a"),
        ("verl", {"a": TOOLS}, "tools"),
        ("trl", {"a": {}, "b": PLAIN}, "mix both"),
    ],
)
def test_refused_before_anything_is_written(to: str, settings: Settings, message: str, tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", settings)
    export_run(run.root, "parquet", str(tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    with pytest.raises(ConfigError, match=message):
        export_run(run.root, to, str(tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("to", "settings"),
    [
        ("verl", {"a": NO_THINKING, "b": NO_THINKING}),
        ("verl", {"a": {}, "b": FEW_SHOT}),
        ("trl", {"a": PLAIN, "b": PLAIN}),
        ("trl", {"a": NO_THINKING, "b": TOOLS}),
        ("openrlhf", {"a": PLAIN, "b": NO_THINKING}),
        ("prime-rl", {"a": PLAIN, "b": TOOLS}),
        ("jsonl", {"a": PLAIN, "b": TOOLS}),
    ],
)
def test_exported(to: str, settings: Settings, tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", settings)
    report = export_run(run.root, to, str(tmp_path / "out"))

    assert report.rollouts == report.rollouts_read
    assert report.chat_template_kwargs == (settings["a"].get("chat_template_kwargs", {}) if to == "verl" else {})


def test_an_arm_that_does_not_fit_can_be_left_out(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"a": NO_THINKING, "b": PLAIN, "c": {}})
    export_run(run.root, "verl", str(tmp_path / "out"), ExportFilters(arms=("a",)))

    settings = (tmp_path / "out" / "README.md").read_text().split("```json\n")[1].split("```")[0]
    assert json.loads(settings) == NO_THINKING["chat_template_kwargs"]


def test_trl_gets_plain_prompts_as_text(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"a": {}, "b": PLAIN})
    export_run(run.root, "trl", str(tmp_path / "out"), ExportFilters(arms=("b",)))

    frame = pl.read_parquet(tmp_path / "out" / "train-*.parquet")
    assert (frame.schema["prompt"], frame.schema["completion"]) == (pl.String, pl.String)
    assert frame["prompt"].unique().to_list() == ["Q: 1 + 1?"]


def test_the_command_refuses_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path / "run", {"a": PLAIN})

    out = tmp_path / "out"
    assert harvest_here("export", "run", "--to", "verl", "--out", out, "--runs-dir", run.root.parent) == 2
    assert "the prompts of a are plain texts" in capsys.readouterr().err
    assert not out.exists()
