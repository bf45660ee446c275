"""Measures the pipeline and the loops that it replaces, in turn and repeatedly, on the same questions and seeds.

Every contestant runs in processes of its own, which end before the next contestant starts. The loops are described in
``tasks.generation.reference_loops``; the pipeline is ``harvest run`` with everything that a user gets from it.
"""

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from flows.child_run import run_command
from flows.parameters import run_config
from tasks.comparison.equivalence import compare_runs, validate_run
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.noise_floor import NoiseFloor, find_noise_floor, measure_noise_floor, save_noise_floor
from tasks.errors import ConfigError, HarvestError
from tasks.files import publish_json
from tasks.generation.generation_log import read_sessions
from tasks.generation.reference_loops import LoopName
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_selection import device_name, gpus_of_run
from tasks.node.gpu_use import GpuUseSampler
from tasks.node.plan_here import plan_here
from tasks.plan.fingerprint import engine_versions
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.records import RunPaths
from tasks.results.bench_statistics import PROJECTION_ASSUMPTION, Measurement, Standing, standings
from tasks.storage.run_files import scan_shards
from tasks.user_paths import user_path

PIPELINE = "pipeline"
DEFAULT_QUESTIONS = 100
DEFAULT_REPEATS = 3
MOST_REPEATS = 1_000
CONTESTANTS = ("baseline", "script", "limit", PIPELINE)

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """The measurements. ``equivalence`` has each contestant's verdict against the baseline, and the reason for it."""

    directory: Path
    plan: RunPlan
    measurements: tuple[Measurement, ...]
    standings: tuple[Standing, ...]
    equivalence: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {
            "directory": str(self.directory),
            "profile": self.plan.profile.name,
            "model": self.plan.model.name,
            "questions": self.plan.num_questions,
            "rollouts": self.plan.num_rollouts,
            "comparable": self.plan.comparable,
            "tested": self.plan.tested,
            "machine": {"device": device_name(), "cores": os.cpu_count(), "platform": platform.platform()},
            "versions": engine_versions(),
            "standings": [asdict(standing) for standing in self.standings],
            "projection_assumption": PROJECTION_ASSUMPTION,
            "measurements": [asdict(item) for item in self.measurements],
            "equivalence": self.equivalence,
        }


class Bench:
    """One benchmark of one configuration, in a directory of its own below the runs directory."""

    def __init__(self, parameters: Mapping[str, Any], *, baseline_profile: str | None, log: Log) -> None:
        self._given = dict(parameters)
        self._log = log
        self._runs_dir = user_path(self._given.pop("runs_dir"))
        self._plan = plan_here(run_config(self._given), self._runs_dir)
        for told in self._plan.choices:
            log(told)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        self.directory = self._runs_dir / f"bench-{self._plan.profile.name}-{stamp}"
        self._baseline_profile = baseline_profile or self._plan.profile.baseline

    def run(self, contestants: Sequence[str], repeats: int) -> BenchResult:
        """Measure every contestant ``repeats`` times; publish bench.json. Raises HarvestError."""
        self._plans = {name: self._baseline_plan() if name == "baseline" else self._plan for name in contestants}
        measurements: list[Measurement] = []
        with self._node(), GpuUseSampler(self._plan.profile) as watch:
            for repeat in range(1, repeats + 1):
                # each repeat starts with another contestant, so that none always meets a warm or a hot machine
                first = (repeat - 1) % len(contestants)
                for contestant in [*contestants[first:], *contestants[:first]]:
                    measurements.append(self._measure(contestant, repeat, watch))
        measurements.sort(key=lambda item: (CONTESTANTS.index(item.contestant), item.repeat))
        result = BenchResult(
            directory=self.directory,
            plan=self._plan,
            measurements=tuple(measurements),
            standings=standings(measurements, subject=PIPELINE, rollouts_per_question=self._plan.rollouts_per_question),
            equivalence=self._equivalence(measurements),
        )
        publish_json(result.to_json(), self.directory / "bench.json")
        return result

    def noise_floor(self) -> tuple[NoiseFloor, Path]:
        """Run the baseline twice in one order and once in another. Keep the larger noise; return it and its file."""
        baseline, runs = self._baseline_plan(), []
        with self._node():
            for name, order_seed in (("first", None), ("again", None), ("reordered", 1)):
                self._log(f"baseline, {name}")
                plan = reference_plan(baseline, "baseline", self.directory, name=f"noise-{name}", order_seed=order_seed)
                runs.append(run_reference(plan, "baseline", order_seed=order_seed).plan.paths.root)
        floors = [measure_noise_floor(runs[0], other) for other in runs[1:]]
        floor = max(floors, key=lambda item: (item.measured, item.near_tie_limit, item.flip_rate))
        return floor, save_noise_floor(floor, runs[0], self._runs_dir)

    def _node(self) -> AbstractContextManager[None]:
        return lock_gpus(gpus_of_run(self._plan), run_id=self.directory.name, on_wait=self._log)

    def _baseline_plan(self) -> RunPlan:
        if self._baseline_profile is None:
            raise ConfigError(
                f"profile {self._plan.profile.name} names no baseline profile. Give --baseline-profile, or leave the "
                "baseline out with --only"
            )
        values = {**self._given, "profile": self._baseline_profile, "model": self._plan.model.name}
        return plan_run(config_from_parameters(values), self._runs_dir)

    def _measure(self, contestant: str, repeat: int, watch: GpuUseSampler) -> Measurement:
        self._log(f"repeat {repeat}: {contestant} ...")
        wait_for_free_memory([str(index) for index in watch.gpus])
        directory = self.directory / f"repeat-{repeat}"
        paths, finished = (
            self._run_pipeline(directory) if contestant == PIPELINE else self._run_loop(contestant, directory)
        )
        sessions = read_sessions(paths.state / "generation.json")
        rows = scan_shards(paths.root, "rollouts").filter(pl.col("error").is_null())
        rollouts, tokens = rows.select(pl.len(), pl.col("num_completion_tokens").sum()).collect().row(0)
        seconds = sum(session.seconds for session in sessions)
        measurement = Measurement(
            contestant=contestant,
            repeat=repeat,
            run_dir=str(paths.root),
            seconds=seconds,
            start_seconds=sum(session.start_seconds for session in sessions),
            rollouts=rollouts,
            tokens=tokens,
            **asdict(watch.use_between(finished - seconds, finished)),
        )
        self._log(f"repeat {repeat}: {contestant}: {measurement.tokens_per_s:,.0f} tokens/s in {seconds:.1f} s")
        return measurement

    def _run_loop(self, contestant: str, directory: Path) -> tuple[RunPaths, float]:
        loop = cast(LoopName, contestant)
        plan = reference_plan(self._plans[contestant], loop, directory, name=contestant)
        run = run_reference(plan, loop)
        return run.plan.paths, run.timing.finished + time.time() - time.monotonic()

    def _run_pipeline(self, directory: Path) -> tuple[RunPaths, float]:
        ended = subprocess.run(
            run_command({**self._given, "runs_dir": directory, "name": PIPELINE}),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise HarvestError(f"harvest run ended with code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
        paths = RunPaths(root=Path(json.loads(ended.stdout)["run_dir"]))
        last = scan_shards(paths.root, "rollouts").select(pl.col("created_at").max()).collect().item()
        return paths, last.timestamp()

    def _equivalence(self, measurements: Sequence[Measurement]) -> dict[str, dict[str, Any]]:
        runs = {item.contestant: Path(item.run_dir) for item in measurements if item.repeat == 1}
        baseline = runs.pop("baseline", None)
        if baseline is None:
            return {}
        found = {}
        for contestant, run in runs.items():
            floor = find_noise_floor(run, self._runs_dir)
            compare = validate_run if contestant == PIPELINE else _compare
            report = compare(run, baseline, noise_floor=floor)
            found[contestant] = {
                "verdict": report.verdict,
                "reason": report.reason,
                "near_tie_limit": report.limits.near_tie_limit,
                "near_tie_limit_source": report.limits.source,
                "identical": report.tokens.identical,
                "compared": report.tokens.rollouts,
            }
        return found


def _compare(candidate: Path, baseline: Path, *, noise_floor: NoiseFloor | None) -> EquivalenceReport:
    return compare_runs(baseline, candidate, noise_floor=noise_floor)
