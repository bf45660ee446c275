"""A base model, without a chat template, completes text until a stop string: the real engine, end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.parameters import PARAMETERS
from profiles.load import DEMO_MODEL
from tasks.export.export_run import export_run
from tasks.plan.parameters import as_options
from tasks.plan.prompts import ChatTokenizer
from tasks.records import LATER_ROLLOUT_COLUMNS, are_rollouts
from tests.support.harvest_command import Outcome, harvest, harvest_here

pytestmark = pytest.mark.slow

STOP = (" ", "\n")
SAMPLING: dict[str, Any] = {
    "sampling": "model", "top_k": 150, "min_p": 0.001, "repetition_penalty": 1.01, "presence_penalty": 0.02,
    "frequency_penalty": -0.01, "min_tokens": 2, "stop_token_ids": [40, 41], "bad_words": ["zebra"],
    "repetition_detection": "8:6:1",
}  # fmt: skip
RULE: dict[str, Any] = {"max_samples_per_arm": 2, "sample_until": "correct:1"}
TAKEN = {"temperature": 1.0, "top_p": 0.99}
# no multiple of the KV cache's block size, so that its rounding is seen
MAX_MODEL_LEN = 1000
PROFILE = f"""
name = "odd-length"
question_batch_size = 4

[engine]
dtype = "float32"
max_model_len = {MAX_MODEL_LEN}
enforce_eager = true
enable_chunked_prefill = false
max_num_batched_tokens = 2048
kv_cache_space_gib = 1

[expect]
device = "cpu"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("model") / "base"
    shutil.copytree(DEMO_MODEL, model, ignore=shutil.ignore_patterns("chat_template.jinja"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "top_p": 0.99, "top_k": 200}))
    return model


def options(model: Path) -> tuple[str | Path, ...]:
    profile = model.parent / "profile.toml"
    profile.write_text(PROFILE)
    asked = ("--profile", profile, "--model", model, "--questions", "3", "--max-tokens", "24")
    return (*asked, "--runs-dir", model.parent / "runs", "--json")


@pytest.fixture(scope="module")
def finished(model: Path, prefect_api: str) -> Outcome:
    stops = [part for stop in STOP for part in ("--stop", stop)]
    as_text = ("--prompt-format", "plain", "--prompt-template", "Q: {question}\nA:")
    return harvest(
        "run",
        *options(model),
        *as_text,
        *stops,
        *as_options(SAMPLING | RULE, PARAMETERS),
        PREFECT_API_URL=prefect_api,
    )


def plain(markdown: str) -> str:
    """Return ``markdown`` without what escapes its signs."""
    return markdown.replace("\\", "")


def test_a_base_model_is_refused_for_chat(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here("run", *options(model)) == 2
    assert "--prompt-format plain" in capsys.readouterr().err


def test_a_base_model_completes_text_until_a_stop_string(finished: Outcome, model: Path) -> None:
    assert finished.code == 0, finished.stderr
    rows = pl.read_parquet(Path(finished.report["run_dir"]) / "rollouts" / "*.parquet")
    tokenizer = ChatTokenizer(model)
    assert rows["error"].null_count() == rows.height
    assert rows.select("example_id", "arm_id").n_unique() == 24
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


def test_a_group_gets_another_sample_until_one_is_right(finished: Outcome) -> None:
    run_dir = Path(finished.report["run_dir"])
    found = {folder: {path.name for path in (run_dir / folder).glob("*.parquet")} for folder in ("rollouts", "scores")}
    assert found["rollouts"] == found["scores"] == {"shard-00000.parquet", "shard-00000-w01.parquet"}
    first, later = (
        pl.read_parquet(run_dir / "rollouts" / name).join(pl.read_parquet(run_dir / "scores" / name), on="rollout_id")
        for name in ("shard-00000.parquet", "shard-00000-w01.parquet")
    )
    wrong = first.filter(pl.col("reward") < 1)
    assert later.select("example_id", "arm_id").rows() == wrong.select("example_id", "arm_id").rows()
    assert (first["sample_index"].unique().to_list(), later["sample_index"].unique().to_list()) == ([0], [1])
    assert finished.report["num_rollouts"] == first.height + later.height


def test_every_sampling_option_is_in_the_runs_files(finished: Outcome) -> None:
    run_dir = Path(finished.report["run_dir"])
    config = json.loads((run_dir / "config.json").read_text())
    detection = {"max_pattern_size": 8, "min_count": 6, "min_pattern_size": 1}
    given = SAMPLING | TAKEN | {"repetition_detection": detection, "stop": [*STOP]}
    given.pop("sampling")
    assert {name: config["config"]["sampling"][name] for name in given} == given
    assert {name: config["comparable"]["sampling"][name] for name in given} == given
    assert config["model_sampling"] == TAKEN
    rows = pl.read_parquet(run_dir / "rollouts" / "*.parquet")
    assert are_rollouts(rows.schema)
    columns = [name for name in LATER_ROLLOUT_COLUMNS if name in given]
    assert rows.select("temperature", "top_p", *columns).unique().to_dicts() == [
        {name: given[name] for name in ("temperature", "top_p", *columns)}
    ]
    assert rows.filter(pl.col("num_completion_tokens") < 2).is_empty()
    assert "sampling of the model's generation_config.json: temperature 1.0, top_p 0.99" in finished.stderr
    (told,) = json.loads((run_dir / "report.json").read_text())["warnings"]
    assert "top_p 0.99, top_k 150, min_p 0.001 truncates" in told
    assert finished.report["model_sampling"] == TAKEN
    card, page = (plain((run_dir / name).read_text()) for name in ("README.md", "report.html"))
    assert "temperature 1.0, top_p 0.99, top_k 150, min_p 0.001, repetition_penalty 1.01" in card
    assert "| stop_token_ids | list of int32 | token ids that end a completion, besides the model's own |" in card
    for text in (card, page):
        assert "--sampling-mask stores what a trainer needs" in text
    assert '<th scope="row">temperature of the model</th>' in page
    assert [name for name, value in SAMPLING.items() if f"sampling {name}</th>" not in page] == ["sampling"]


def test_an_export_has_the_columns_and_the_warning(finished: Outcome, tmp_path: Path) -> None:
    report = export_run(Path(finished.report["run_dir"]), "parquet", str(tmp_path / "out"))
    assert {"top_k", "bad_words"} < {*report.columns}
    (told,) = report.warnings
    assert told in plain((tmp_path / "out" / "README.md").read_text())


def test_the_planned_kv_tokens_are_those_that_the_engine_logs(finished: Outcome) -> None:
    run_dir = Path(finished.report["run_dir"])
    (log,) = (run_dir / "logs").glob("replica-*.log")
    plan = json.loads((run_dir / "preflight.json").read_text())["plan"]
    assert f"KV cache size: {plan['kv_tokens']:,} tokens" in log.read_text()
