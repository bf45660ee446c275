"""``harvest preflight`` and ``harvest plan`` as a user runs them, also on a node that looks like 8 H100s."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from profiles.load import DEMO_MODEL
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import Outcome, environment, harvest, harvest_here
from tests.support.lora_adapters import write_adapter
from tests.support.nvml_stub import build_stub, has_compiler, stub_environment
from tests.support.patience import end, is_alive, read_to_end, until
from tests.tasks.plan.test_model_files import SECOND, model

__all__ = ["model"]

pytestmark = pytest.mark.slow

KNOWN_PROMPTS = ("--questions", "8", "--max-tokens", "64")
"""Their check takes seconds, and is kept for other tests: tests/faults/test_flow_server_outage.py asks for them too."""


def test_the_demo_profile_passes_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here("preflight", "--json", "--runs-dir", tmp_path) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["worst"] in ("pass", "warn")
    assert {check["name"] for check in report["checks"]} >= {"model files", "memory plan", "disk"}


def test_a_gpu_profile_without_a_driver_says_which_profile_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, told = harvest_here("preflight", "--profile", "h100x8", "--runs-dir", tmp_path), capsys.readouterr().out
    if "no NVIDIA driver" not in told:
        pytest.skip("this machine has an NVIDIA driver")
    assert code == 2
    assert "use a profile that fits this node: cpu-demo" in told


def test_options_of_a_run_are_for_warm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here("preflight", "--questions", "3", "--runs-dir", tmp_path) == 2
    assert "--questions is for --warm alone" in capsys.readouterr().err


def test_warm_refuses_a_cache_that_cannot_be_written_before_an_engine_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARVEST_CACHE_DIR", str(tmp_path / "file"))
    assert harvest_here("preflight", "--warm", "--runs-dir", tmp_path / "runs") == 2
    shown = capsys.readouterr()
    assert f"engine caches: the directory {tmp_path / 'file/vllm'} cannot be written" in shown.err
    assert not shown.out
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_while_an_engine_warms_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    profile = write_fake_profile(tmp_path)
    profile.write_text(profile.read_text().replace("enforce_eager = true", "enforce_eager = false"))
    options = ("--profile", profile, "--questions", "2", "--max-tokens", "8", "--runs-dir", tmp_path / "runs")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.commands.cli", "preflight", "--warm", "--json", *options],
        env=environment(FAKE_NEVER_READY="1", HARVEST_CACHE_DIR=str(tmp_path / "caches")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        started = lambda: list(tmp_path.glob("runs/.warm/*/state/replica-0.pid.json"))  # noqa: E731
        until(started, "the engine's process is recorded", alive=[process])
        engines = psutil.Process(process.pid).children(recursive=True)
        # the terminal sends it to all of them
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = read_to_end(process, "the end of the interrupted command")
    finally:
        end(process)
    assert process.returncode == 130
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert engines
    assert not any(map(is_alive, engines))
    assert not list(tmp_path.glob("runs/.warm/*"))


def test_warm_says_that_an_eager_engine_on_a_cpu_compiles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harvest_here("preflight", "--warm", *KNOWN_PROMPTS, "--runs-dir", tmp_path) == 0
    assert "nothing to warm" in capsys.readouterr().out


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has_compiler():
        pytest.skip("gcc is not installed, so the stub cannot be built")
    return build_stub(tmp_path_factory.mktemp("nvml"))


def on_eight_gpus(stub: Path, tmp_path: Path, fault: str = "") -> Outcome:
    gpus = stub_environment(stub, fault, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7", COLUMNS="200")
    return harvest("preflight", "--profile", "h100x8", "--runs-dir", tmp_path, **gpus)


def test_eight_gpus_are_found_and_pass(stub: Path, tmp_path: Path) -> None:
    outcome = on_eight_gpus(stub, tmp_path)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    (answering,) = [line for line in outcome.stdout.splitlines() if "answers" in line]
    assert answering.split()[:3] == ["pass", "answers", "0-7"]
    assert "NVIDIA H100 80GB HBM3" in answering
    assert not any(line.startswith("fail") for line in outcome.stdout.splitlines())


def test_the_default_profile_is_chosen_by_the_gpus(stub: Path, tmp_path: Path) -> None:
    gpus = stub_environment(stub, CUDA_VISIBLE_DEVICES="0,1,2,3,4", COLUMNS="200")
    asked = ("--model", "demo", *KNOWN_PROMPTS, "--runs-dir", tmp_path)
    outcome = harvest("plan", "--json", *asked, **gpus)
    assert outcome.code == 0, outcome.stderr
    assert "profile auto: 5 engines of 1 GPU, bfloat16, max_model_len 2048" in outcome.stderr
    assert outcome.report["plan"]["profile"] == "h100-80gb-hbm3"
    assert outcome.report["plan"]["auto"]["sequences"] == 1024
    refused = harvest("plan", *asked[2:], **gpus)
    assert refused.code == 2
    assert "names no model. Give --model" in refused.stderr


def test_a_faulty_gpu_fails_with_its_remedy(stub: Path, tmp_path: Path) -> None:
    outcome = on_eight_gpus(stub, tmp_path, "remap_pending")
    assert outcome.code == 2
    lines = outcome.stdout.splitlines()
    (at,) = [place for place, line in enumerate(lines) if line.startswith("fail")]
    assert lines[at].split()[:4] == ["fail", "row", "remapping", "3"]
    assert "-> Reset the GPU" in lines[at + 1]


@pytest.mark.parametrize(("name", "damage"), [("model.safetensors", "truncate"), ("tokenizer.json", "remove")])
def test_the_error_names_the_damaged_model_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    if damage == "remove":
        (model / name).unlink()
    else:
        (model / name).write_bytes((model / name).read_bytes()[:-100])
    for command in ("preflight", "run"):
        assert harvest_here(command, "--model", model, "--runs-dir", tmp_path / "runs") == 2
        assert name.split(".")[0] in "".join(capsys.readouterr())
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/logs"))


def test_the_error_names_the_missing_shard(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / SECOND).unlink()
    for command in ("preflight", "run"):
        assert harvest_here(command, "--model", model, "--runs-dir", tmp_path / "runs") == 2
        assert SECOND in "".join(capsys.readouterr())
    assert not (tmp_path / "runs").exists()


def test_plan_measures_the_dataset_and_advises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here("plan", "--json", *KNOWN_PROMPTS, "--runs-dir", tmp_path) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["plan"]["kv_tokens"] > 0
    assert value["prompts"]["longest"] < 200
    assert any(advice["setting"] == "max_model_len" for advice in value["advice"])


@pytest.mark.parametrize("command", ["plan", "preflight"])
def test_a_pattern_means_the_newest_checkpoint_and_all_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "step-9").mkdir()
    shutil.copytree(DEMO_MODEL, tmp_path / "step-10")
    given: list[str | Path] = ["--model", tmp_path / "step-*", "--runs-dir", tmp_path / "runs", "--json"]
    if command == "plan":
        write_adapter(tmp_path / "lora-1")
        given += ["--questions", "2", "--adapter", tmp_path / "lora-*"]
    assert harvest_here(command, *given) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)
    assert harvest_here(command, "--model", tmp_path / "none-*", "--runs-dir", tmp_path / "runs") == 2
    assert "matches 0 paths" in capsys.readouterr().err
