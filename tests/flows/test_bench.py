"""Which contestants a benchmark has. Whether it measures them: tests/e2e/test_bench.py."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.bench import Bench
from flows.bench_contestants import CONTESTANTS, choose_contestants
from tasks.errors import ConfigError
from tests.support.fake_profile import write_fake_profile

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
        pytest.param("pipeline,ray", "--only names ray, but .*pip install", marks=without_ray),
    ],
)
def test_other_names_are_refused(only: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_contestants(only, peers=False)


def test_peers_of_another_engine_are_refused(tmp_path: Path) -> None:
    parameters = {"profile": str(write_fake_profile(tmp_path)), "questions": 2, "runs_dir": str(tmp_path / "runs")}
    bench = Bench(parameters, baseline_profile=None, log=print)
    with pytest.raises(ConfigError, match=r"vllm-serve can run vLLM alone. Leave them out"):
        bench.run(("pipeline", "vllm-serve"), 1)
    assert not (tmp_path / "runs").exists()
