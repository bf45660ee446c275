"""What a benchmark says on the terminal and in bench.json."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.bench_result import BenchResult
from flows.reporting.bench_view import render_bench
from tasks.node.arithmetic import Arithmetic
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.results.bench_statistics import Failure, Measurement, standings

LENGTHS = "lognormal:16:0.5"


def measured(contestant: str, seconds: float, **more: Any) -> Measurement:
    return Measurement(
        contestant=contestant,
        repeat=1,
        run_dir="",
        seconds=seconds,
        start_seconds=20.0,
        process_seconds=30.0 + seconds,
        rollouts=16,
        tokens=1000,
        **more,
    )


def result_of(runs_dir: Path, *measurements: Measurement, lengths: str | None = LENGTHS) -> BenchResult:
    return BenchResult(
        directory=runs_dir / "bench",
        plan=plan_run(config_from_parameters({"questions": 2, "lengths": lengths}), runs_dir),
        repeats=1,
        arithmetic=Arithmetic(parameters=10, peak_flops=None),
        measurements=measurements,
        failures=(Failure(contestant="ray", repeat=1, reason="no room. engine log: here.log"),),
        standings=standings(measurements, subject="pipeline", rollouts_per_question=8),
        equivalence={},
    )


def shown(result: BenchResult) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_bench(result))
    return captured.get()


def test_a_peer_that_failed_is_a_row_with_its_reason_and_log(tmp_path: Path) -> None:
    result = result_of(tmp_path, measured("limit", 4), measured("pipeline", 5))
    lines = shown(result).splitlines()
    assert any("ray" in line and "failed" in line and "│" in line for line in lines)
    assert "repeat 1: ray failed: no room. engine log: here.log" in [line.strip() for line in lines]
    assert result.to_json()["failures"] == [
        {"contestant": "ray", "repeat": 1, "reason": "no room. engine log: here.log"}
    ]


def test_a_benchmark_in_which_all_failed_can_be_shown(tmp_path: Path) -> None:
    assert "failed" in shown(result_of(tmp_path))


def test_the_ratio_to_the_limit_is_told(tmp_path: Path) -> None:
    result = result_of(tmp_path, measured("limit", 4), measured("pipeline", 5))
    assert "0.80x" in shown(result)
    assert result.to_json()["ratios"] == {"pipeline/limit": {"mean": 0.8, "low": 0.8, "high": 0.8}}


@pytest.mark.parametrize(
    ("more", "lengths", "told", "not_told"),
    [
        ({}, LENGTHS, "34.0", "compare tokens/s"),
        ({}, None, "compare tokens/s", "per GPU"),
        ({"gpus": 2}, LENGTHS, "GPUs used: limit 2, pipeline 1. Ratios are per GPU.", "compare tokens/s"),
        ({"arithmetic_share": 0.257}, LENGTHS, "25.7%", "per GPU"),
    ],
)
def test_what_makes_figures_comparable_is_told(
    more: dict[str, Any], lengths: str | None, told: str, not_told: str, tmp_path: Path
) -> None:
    text = shown(result_of(tmp_path, measured("limit", 4, **more), measured("pipeline", 5), lengths=lengths))
    assert told in text
    assert not_told not in text
