"""The comparison of a run with its baseline in a process of its own: equivalence.json."""

from pathlib import Path

from tasks.comparison.equivalence_report import EquivalenceReport, Tier
from tasks.comparison.noise_floor import NoiseFloor
from tasks.records import RunPaths
from tasks.subprocess_call import call_in_subprocess


def validate_in_subprocess(
    candidate_dir: Path, baseline_dir: Path, *, epsilon: float, noise_floor: NoiseFloor | None, require: Tier
) -> EquivalenceReport:
    """``tasks.comparison.equivalence.validate_run``, with its log in the candidate's directory. Raises HarvestError."""
    paths = RunPaths(root=candidate_dir)
    label = f"comparison of {paths.run_id} with {baseline_dir}"
    return call_in_subprocess(
        _validate, label, paths.logs / "validate.log", candidate_dir, baseline_dir, epsilon, noise_floor, require
    )


def _validate(
    candidate_dir: Path, baseline_dir: Path, epsilon: float, noise_floor: NoiseFloor | None, require: Tier
) -> EquivalenceReport:
    from tasks.comparison.equivalence import validate_run

    return validate_run(candidate_dir, baseline_dir, epsilon=epsilon, noise_floor=noise_floor, require=require)
