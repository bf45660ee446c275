"""A base model, without a chat template, completes text until a stop string: the real engine, end to end."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from profiles.load import DEMO_MODEL
from tasks.prompts import ChatTokenizer
from tests.harvest_command import harvest

STOP = (" ", "\n")


@pytest.mark.slow
def test_a_base_model_completes_text(tmp_path: Path) -> None:
    model = tmp_path / "base"
    shutil.copytree(DEMO_MODEL, model, ignore=shutil.ignore_patterns("chat_template.jinja"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    arguments = (
        "run",
        "--model",
        model,
        "--questions",
        3,
        "--max-tokens",
        24,
        "--runs-dir",
        tmp_path / "runs",
        "--json",
    )

    refused = harvest(*arguments)
    assert (refused.code, "--prompt-format plain" in refused.stderr) == (2, True)
    stops = [part for stop in STOP for part in ("--stop", stop)]
    finished = harvest(*arguments, "--prompt-format", "plain", "--prompt-template", "Q: {question}\nA:", *stops)
    assert finished.code == 0, finished.stderr

    rows = pl.read_parquet(Path(finished.report["run_dir"]) / "rollouts" / "*.parquet")
    tokenizer = ChatTokenizer(model)
    assert rows["error"].null_count() == rows.height == 24
    assert not rows["completion"].str.contains_any(STOP).any()
    stopped = rows.filter(pl.col("stop_reason").is_in(STOP))
    assert stopped.height > 0
    assert stopped["finish_reason"].unique().to_list() == ["stop"]
    for row in stopped.iter_rows(named=True):
        assert row["prompt"][0]["role"] == "text"
        assert tokenizer.decode(row["prompt_ids"]) == row["prompt"][0]["content"]
        as_sampled = tokenizer.decode(row["completion_ids"])
        assert as_sampled.startswith(row["completion"] + row["stop_reason"])
        assert len(row["logprobs"]) == len(row["completion_ids"])
