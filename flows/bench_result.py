"""The result of a benchmark, as bench.json has it."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.node.arithmetic import FORMULA, Arithmetic
from tasks.node.gpu_selection import device_name
from tasks.plan.fingerprint import engine_versions
from tasks.plan.run_plan import RunPlan
from tasks.results.bench_statistics import PROJECTION_ASSUMPTION, Failure, Measurement, Standing


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """The measurements. ``equivalence`` has each stored contestant's verdict against the baseline, and its reason."""

    directory: Path
    plan: RunPlan
    repeats: int
    arithmetic: Arithmetic
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...]
    standings: tuple[Standing, ...]
    equivalence: Mapping[str, Mapping[str, Any]]

    @property
    def same_lengths(self) -> bool:
        """Whether all contestants make the same number of tokens for each rollout, with seeds or without."""
        return self.plan.config.sampling.lengths is not None

    def to_json(self) -> dict[str, Any]:
        return {
            "directory": str(self.directory),
            "profile": self.plan.profile.name,
            "model": self.plan.model.name,
            "questions": self.plan.num_questions,
            "rollouts": self.plan.num_rollouts,
            "same_lengths": self.same_lengths,
            "comparable": self.plan.comparable,
            "tested": self.plan.tested,
            "machine": {"device": device_name(), "cores": os.cpu_count(), "platform": platform.platform()},
            "versions": engine_versions(),
            "standings": [asdict(standing) for standing in self.standings],
            "ratios": {
                f"pipeline/{standing.contestant}": asdict(standing.speedup)
                for standing in self.standings
                if standing.speedup is not None
            },
            "arithmetic": {**asdict(self.arithmetic), "formula": FORMULA},
            "projection_assumption": PROJECTION_ASSUMPTION,
            "measurements": [asdict(item) for item in self.measurements],
            "failures": [asdict(item) for item in self.failures],
            "equivalence": self.equivalence,
        }
