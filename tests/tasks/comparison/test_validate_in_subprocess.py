"""Tests that a comparison in a subprocess gives the same report and the same errors."""

from pathlib import Path

import pytest

from tasks.comparison.equivalence import compare_runs, validate_in_subprocess
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.noise_floor import NoiseFloor
from tasks.comparison.verdict import DEFAULT_EPSILON
from tasks.errors import ConfigError
from tasks.files import read_json
from tests.support.toy_model import write_toy_run

FLOOR = NoiseFloor(
    near_tie_limit=0.25,
    measured=True,
    divergence_rate=0.5,
    flip_rate=0.1,
    divergences=12,
    rollouts=24,
    dtype="bfloat16",
    source_run_ids=("1", "2"),
)


def validate(candidate: Path, baseline: Path, floor: NoiseFloor) -> EquivalenceReport:
    return validate_in_subprocess(candidate, baseline, epsilon=DEFAULT_EPSILON, noise_floor=floor, require="numerical")


def test_the_subprocess_gives_the_same_report(tmp_path: Path) -> None:
    baseline, candidate = (write_toy_run(tmp_path / name, rounding=0.01, order=i) for i, name in enumerate("ab"))
    report = validate(candidate.root, baseline.root, FLOOR)
    here = compare_runs(baseline.root, candidate.root, noise_floor=FLOOR, require="numerical")
    assert report == here
    assert report.tokens.worst
    assert read_json(candidate.equivalence) == here.to_json()
    assert (candidate.logs / "validate.log").is_file()


def test_an_error_keeps_its_type(tmp_path: Path) -> None:
    baseline, candidate = (write_toy_run(tmp_path / name, dtype="float16") for name in "ab")
    with pytest.raises(ConfigError, match="the noise floor was measured in bfloat16, the runs are in float16"):
        validate(candidate.root, baseline.root, FLOOR)
    assert "ConfigError" in (candidate.logs / "validate.log").read_text()
    assert not candidate.equivalence.exists()
