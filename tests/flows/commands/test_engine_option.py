"""``--engine`` of the commands: what is wrong ends them with exit code 2, and what is right is in their answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.harvest_command import harvest_here

RUN = ("--profile", "cpu-demo", "--questions", "2", "--max-tokens", "8")


@pytest.mark.parametrize(
    ("command", "engine", "told"),
    [
        ("run", "kv_cache_dtyp=fp8", "kv_cache_dtyp is no field of EngineArgs"),
        ("run", "max_num_seqs", "has no value. Give KEY=VALUE"),
        ("run", "speculative_config={'method'", "neither JSON nor TOML"),
        ("plan", "seed=3", "Give --seed"),
        ("preflight", "enable_lora=true", "--adapter"),
        ("tune", "block_size=big", "block_size is 'big'; vLLM"),
    ],
)
def test_a_wrong_engine_setting_ends_the_command(
    command: str, engine: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = RUN[:2] if command == "preflight" else RUN
    assert harvest_here(command, *given, "--engine", engine, "--runs-dir", tmp_path / "runs") == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def plan(runs_dir: Path, capsys: pytest.CaptureFixture[str], *engine: str) -> dict[str, Any]:
    options = [word for setting in engine for word in ("--engine", setting)]
    assert harvest_here("plan", *RUN, *options, "--runs-dir", runs_dir, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["plan"]
    return found


def test_the_plan_is_one_with_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = plan(tmp_path, capsys)
    after = plan(tmp_path, capsys, "kv_cache_dtype=bfloat16", "max_num_seqs=4", "hf_overrides={}")
    assert after["kv_bytes_per_token"] * 2 == before["kv_bytes_per_token"]
    assert after["running"] == 4
    assert before["not_counted"] == []
    (told,) = after["not_counted"]
    assert "hf_overrides" in told
