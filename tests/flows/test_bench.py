"""Which contestants a benchmark has. Whether it measures them: tests/e2e/test_bench.py."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.bench import Bench
from flows.bench_contestants import CONTESTANTS, choose_contestants
from tasks.errors import ConfigError, EngineError
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import harvest_here

without_ray = pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed here")


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, CONTESTANTS),
        ("limit,pipeline", ("limit", "pipeline")),
        ("pipeline,vllm-serve", ("pipeline", "vllm-serve")),
    ],
)
def test_contestants_are_chosen_by_name(only: str | None, expected: tuple[str, ...]) -> None:
    assert choose_contestants(only, peers=False) == (expected, "")


@without_ray
def test_peers_that_are_not_installed_are_named_with_what_to_install() -> None:
    chosen, told = choose_contestants("limit,pipeline", peers=True)
    assert chosen[:3] == ("limit", "pipeline", "vllm-serve")
    assert "ray" not in chosen
    assert 'ray is not installed: pip install "ray[data,llm]"' in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ("", "give each of baseline, script, limit, features, pipeline, vllm-serve, datatrove, ray at most once"),
        ("limit,limit", "at most once"),
        ("fastest", "--only is 'fastest'"),
        pytest.param("pipeline,ray", "--only names ray, but ray is not installed: pip install", marks=without_ray),
    ],
)
def test_other_names_are_refused(only: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_contestants(only, peers=False)


@pytest.mark.parametrize("other", [("--only", "limit"), ("--peers",)])
def test_a_noise_floor_takes_no_contestants(
    other: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harvest_here("bench", "--noise-floor", *other, "--runs-dir", tmp_path / "runs") == 2
    assert f"so that {other[0]} has no meaning" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "contestants", "reason", "measured"),
    [
        ("BrokenEngine", ("limit",), "no contestant could be measured; .*bench.json", None),
        ("LooplessEngine", ("limit", "script"), "this engine runs no loop", ["limit"]),
    ],
)
def test_a_benchmark_that_fails_keeps_what_was_measured(
    backend: str, contestants: tuple[str, ...], reason: str, measured: list[str] | None, tmp_path: Path
) -> None:
    profile = write_fake_profile(tmp_path, backend=f"tests.support.fake_engines:{backend}")
    parameters = {"profile": str(profile), "questions": 2, "max_tokens": 8, "runs_dir": str(tmp_path / "runs")}
    bench = Bench(parameters, baseline_profile=None, log=print)
    with pytest.raises(EngineError, match=reason):
        bench.run(contestants, 1)
    result = json.loads((bench.directory / "bench.json").read_text())
    assert [item["contestant"] for item in result["measurements"]] == (measured or [])
    assert result["failures"][-1]["contestant"] == contestants[-1]


def test_peers_of_another_engine_are_refused(tmp_path: Path) -> None:
    parameters = {"profile": str(write_fake_profile(tmp_path)), "questions": 2, "runs_dir": str(tmp_path / "runs")}
    bench = Bench(parameters, baseline_profile=None, log=print)
    with pytest.raises(ConfigError, match=r"vllm-serve can run vLLM alone. Leave them out"):
        bench.run(("pipeline", "vllm-serve"), 1)
    assert not (tmp_path / "runs").exists()
