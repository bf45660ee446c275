"""A base model, without a chat template, completes text until a stop string: the real engine, end to end."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from profiles.load import DEMO_MODEL
from tasks.plan.prompts import ChatTokenizer
from tests.support.harvest_command import Outcome, harvest, harvest_here

pytestmark = pytest.mark.slow

STOP = (" ", "\n")
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
    return harvest("run", *options(model), *as_text, *stops, PREFECT_API_URL=prefect_api)


def test_a_base_model_is_refused_for_chat(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here("run", *options(model)) == 2
    assert "--prompt-format plain" in capsys.readouterr().err


def test_a_base_model_completes_text_until_a_stop_string(finished: Outcome, model: Path) -> None:
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


def test_the_planned_kv_tokens_are_those_that_the_engine_logs(finished: Outcome) -> None:
    run_dir = Path(finished.report["run_dir"])
    (log,) = (run_dir / "logs").glob("replica-*.log")
    plan = json.loads((run_dir / "preflight.json").read_text())["plan"]
    assert f"KV cache size: {plan['kv_tokens']:,} tokens" in log.read_text()
