"""Measures the pipeline, the loops that it replaces, vLLM's own limit and peers, in turn and repeatedly.

Every contestant runs in processes of its own, which end before the next contestant starts. The loops are described in
``tasks.generation.reference_loops``, the limit and the peers in ``tasks.peers``; the pipeline is ``harvest run`` with
everything that a user gets from it. All are given the same questions. With drawn lengths (``lengths``) all make the
same tokens per rollout; without them a contestant that has no seeds draws other completions, and only rates compare.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from flows.bench_contestants import prepare_requests, run_contest, run_loop, run_pipeline
from flows.bench_result import BenchResult
from flows.bench_settings import CONTESTANTS, PIPELINE
from flows.parameters import run_config
from tasks.comparison.equivalence import compare_runs, validate_run
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.noise_floor import NoiseFloor, find_noise_floor, measure_noise_floor, save_noise_floor
from tasks.errors import ConfigError, EngineError, HarvestError
from tasks.files import publish_json
from tasks.fleet.ray_address import check_span
from tasks.generation.reference_loops import LoopName
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.node.arithmetic import find_arithmetic
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.gpu_use import GpuUseSampler
from tasks.node.plan_here import plan_here
from tasks.peers.installed import MODULES, PEERS
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.results.bench_statistics import Failure, Measurement, standings
from tasks.user_paths import user_path

Log = Callable[[str], None]


class Bench:
    """One benchmark of one configuration, in a directory of its own below the runs directory."""

    def __init__(self, parameters: Mapping[str, Any], *, baseline_profile: str | None, log: Log) -> None:
        self._given = dict(parameters)
        self._log = log
        self._runs_dir = user_path(self._given.pop("runs_dir"))
        self._plan = plan_here(run_config(self._given), self._runs_dir)
        check_span(self._plan.profile)
        for told in self._plan.choices:
            log(told)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        self.directory = self._runs_dir / f"bench-{self._plan.profile.name}-{stamp}"
        self._baseline_profile = baseline_profile or self._plan.profile.baseline
        self._arithmetic = find_arithmetic(self._plan.profile, self._plan.model.path)

    def run(self, contestants: Sequence[str], repeats: int) -> BenchResult:
        """Measure every contestant ``repeats`` times; publish bench.json. Raises HarvestError."""
        if self._plan.profile.engine.backend != "vllm" and (foreign := [name for name in contestants if name in PEERS]):
            raise ConfigError(
                f"profile {self._plan.profile.name} has the backend {self._plan.profile.engine.backend}, but "
                f"{', '.join(foreign)} can run vLLM alone. Leave them out"
            )
        self._plans = {name: self._baseline_plan() if name == "baseline" else self._plan for name in contestants}
        measurements: list[Measurement] = []
        failures: list[Failure] = []
        with self._node(), GpuUseSampler(self._plan.profile) as watch:
            if set(contestants) & MODULES.keys():
                self._requests = prepare_requests(self._plan, self.directory)
            for repeat in range(1, repeats + 1):
                # each repeat starts with another contestant, so that none always meets a warm or a hot machine
                first = (repeat - 1) % len(contestants)
                for contestant in [*contestants[first:], *contestants[:first]]:
                    try:
                        measurements.append(self._measure(contestant, repeat, watch))
                    except HarvestError as error:
                        self._log(f"repeat {repeat}: {contestant} failed: {error}")
                        failures.append(Failure(contestant=contestant, repeat=repeat, reason=str(error)))
                        if contestant not in MODULES or not isinstance(error, EngineError):
                            if measurements:
                                # they may have taken hours
                                self._publish(repeats, measurements, failures)
                            raise
        result = self._publish(repeats, measurements, failures)
        if not measurements:
            raise EngineError(f"no contestant could be measured; {self.directory / 'bench.json'} has the reasons")
        return result

    def _publish(self, repeats: int, measurements: list[Measurement], failures: list[Failure]) -> BenchResult:
        order = (*CONTESTANTS, *PEERS)
        measurements.sort(key=lambda item: (order.index(item.contestant), item.repeat))
        result = BenchResult(
            directory=self.directory,
            plan=self._plan,
            repeats=repeats,
            arithmetic=self._arithmetic,
            measurements=tuple(measurements),
            failures=tuple(failures),
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
        # the baseline has the settings of its own profile
        values = {**self._given, "profile": self._baseline_profile, "model": self._plan.model.name, "engine": None}
        return plan_run(config_from_parameters(values), self._runs_dir)

    def _measure(self, contestant: str, repeat: int, watch: GpuUseSampler) -> Measurement:
        self._log(f"repeat {repeat}: {contestant} ...")
        wait_for_free_memory([str(index) for index in watch.gpus])
        directory = self.directory / f"repeat-{repeat}"
        if contestant in MODULES:
            ran = run_contest(self._plan, contestant, self._requests, directory / contestant)
        elif contestant == PIPELINE:
            ran = run_pipeline(self._plan, self._given, directory)
        else:
            ran = run_loop(self._plans[contestant], cast(LoopName, contestant), directory)
        measurement = Measurement(
            contestant=contestant,
            repeat=repeat,
            run_dir=str(ran.place),
            seconds=ran.seconds,
            start_seconds=ran.start_seconds,
            process_seconds=ran.process_seconds,
            rollouts=ran.rollouts,
            tokens=ran.tokens,
            gpus=ran.gpus,
            arithmetic_share=self._arithmetic.share(ran.prompt_tokens + ran.tokens, ran.seconds, ran.gpus),
            **asdict(watch.use_between(ran.finished - ran.seconds, ran.finished)),
        )
        self._log(
            f"repeat {repeat}: {contestant}: {measurement.tokens_per_s:,.0f} tokens/s in {ran.seconds:.1f} s, "
            f"{ran.process_seconds:.1f} s from start to exit"
        )
        return measurement

    def _equivalence(self, measurements: Sequence[Measurement]) -> dict[str, dict[str, Any]]:
        stored = [item for item in measurements if item.repeat == 1 and item.contestant not in MODULES]
        runs = {item.contestant: Path(item.run_dir) for item in stored}
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
