"""Measures the pipeline, the loops that it replaces, vLLM's own limit and peers, in turn and repeatedly.

Every contestant runs in processes of its own, which end before the next contestant starts. The loops are described in
``tasks.generation.reference_loops``, the limit and the peers in ``tasks.peers``; the pipeline is ``harvest run`` with
everything that a user gets from it. All are given the same questions. With drawn lengths (``lengths``) all make the
same tokens per rollout; without them a contestant that has no seeds draws other completions, and only rates compare.
"""

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from flows.bench_result import BenchResult
from flows.parameters import PARAMETERS
from tasks.comparison.equivalence import compare_runs, validate_run
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.noise_floor import NoiseFloor, find_noise_floor, measure_noise_floor, save_noise_floor
from tasks.errors import ConfigError, EngineError, HarvestError
from tasks.files import publish_json
from tasks.generation.engine import EngineSpec
from tasks.generation.generation_log import read_sessions
from tasks.generation.reference_loops import LoopName
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.node.arithmetic import find_arithmetic
from tasks.node.engine_memory import default_sequences
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_selection import gpus_of_run, read_used_gpus, smallest_gpu
from tasks.node.gpu_use import GpuUseSampler
from tasks.node.nvml import PynvmlReader
from tasks.node.prompt_check import find_prompts, refuse_problems
from tasks.peers.contest import PeerJob
from tasks.peers.contest_requests import write_requests
from tasks.peers.installed import INSTALL, MODULES, PEERS, installed_peers
from tasks.peers.one_call import FEATURES, LIMIT
from tasks.peers.peer_process import run_peer
from tasks.plan.parameters import as_options
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.records import RunPaths
from tasks.results.bench_statistics import Failure, Measurement, standings
from tasks.storage.run_files import scan_shards
from tasks.subprocess_call import call_in_subprocess
from tasks.user_paths import user_path

PIPELINE = "pipeline"
DEFAULT_QUESTIONS = 100
DEFAULT_REPEATS = 3
MOST_REPEATS = 1_000
CONTESTANTS = ("baseline", "script", LIMIT, FEATURES, PIPELINE)
_ENTRY = """
from tasks.parent_death import die_with_parent
die_with_parent({pid})
from flows.commands.cli import main
main()
"""

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Ran:
    """What a contestant did; ``finished`` is in seconds since the epoch."""

    place: Path
    finished: float
    seconds: float
    start_seconds: float
    process_seconds: float
    rollouts: int
    tokens: int
    prompt_tokens: int
    gpus: int


def choose_contestants(only: str | None, *, peers: bool) -> tuple[tuple[str, ...], str]:
    """Return the contestants that ``--only`` names, or all of ours, and with ``peers`` the installed ones.

    The second value is a line about peers that are asked for and not installed, or "". Raises ConfigError.
    """
    chosen, here = CONTESTANTS if only is None else tuple(only.split(",")), installed_peers()
    known = (*CONTESTANTS, *PEERS)
    if set(chosen) - set(known) or len(set(chosen)) < len(chosen):
        raise ConfigError(f"--only is {only!r}; give each of {', '.join(known)} at most once")
    absent = [peer for peer in PEERS if peer not in here]
    told = "; ".join(f"{peer} is not installed: pip install {INSTALL[peer]}" for peer in absent)
    if lacking := [peer for peer in absent if peer in chosen]:
        raise ConfigError(f"--only names {', '.join(lacking)}, but {told}")
    if not peers:
        return chosen, ""
    return tuple(name for name in known if name in chosen or name in here), told


class Bench:
    """One benchmark of one configuration, in a directory of its own below the runs directory."""

    def __init__(self, parameters: Mapping[str, Any], *, baseline_profile: str | None, log: Log) -> None:
        self._given = dict(parameters)
        self._log = log
        self._runs_dir = user_path(self._given.pop("runs_dir"))
        self._plan = plan_run(config_from_parameters(self._given), self._runs_dir)
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
                self._write_requests()
            for repeat in range(1, repeats + 1):
                # each repeat starts with another contestant, so that none always meets a warm or a hot machine
                first = (repeat - 1) % len(contestants)
                for contestant in [*contestants[first:], *contestants[:first]]:
                    try:
                        measurements.append(self._measure(contestant, repeat, watch))
                    except EngineError as error:
                        if contestant not in MODULES:
                            raise
                        self._log(f"repeat {repeat}: {contestant} failed: {error}")
                        failures.append(Failure(contestant=contestant, repeat=repeat, reason=str(error)))
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
        values = {**self._given, "profile": self._baseline_profile, "model": self._plan.model.name}
        return plan_run(config_from_parameters(values), self._runs_dir)

    def _write_requests(self) -> None:
        refuse_problems(find_prompts(self._plan))
        smallest = smallest_gpu(read_used_gpus(self._plan.profile, PynvmlReader()))
        size, name = (0, "") if smallest is None else (smallest.memory_total or 0, smallest.name or "")
        self._in_flight = 2 * default_sequences(size, name)
        self._requests = self.directory / "requests.pickle"
        self._prompt_tokens = call_in_subprocess(
            write_requests, "the prompts of a benchmark", self.directory / "requests.log", self._plan, self._requests
        )

    def _measure(self, contestant: str, repeat: int, watch: GpuUseSampler) -> Measurement:
        self._log(f"repeat {repeat}: {contestant} ...")
        wait_for_free_memory([str(index) for index in watch.gpus])
        directory = self.directory / f"repeat-{repeat}"
        if contestant in MODULES:
            ran = self._run_peer(contestant, directory / contestant)
        elif contestant == PIPELINE:
            ran = self._run_pipeline(directory)
        else:
            ran = self._run_loop(cast(LoopName, contestant), directory)
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

    def _run_peer(self, contestant: str, directory: Path) -> _Ran:
        engine = EngineSpec(model_path=self._plan.model.path, settings=self._plan.profile.engine)
        ran = run_peer(
            PeerJob(
                contestant=contestant,
                engine=engine,
                requests=self._requests,
                directory=directory,
                in_flight=self._in_flight,
            )
        )
        result = ran.result
        return _Ran(
            place=directory,
            finished=result.finished,
            seconds=result.finished - result.started,
            start_seconds=ran.start_seconds,
            process_seconds=ran.process_seconds,
            rollouts=result.rollouts,
            tokens=result.tokens,
            prompt_tokens=self._prompt_tokens,
            gpus=engine.settings.tensor_parallel_size,
        )

    def _run_loop(self, loop: LoopName, directory: Path) -> _Ran:
        plan = reference_plan(self._plans[loop], loop, directory, name=loop)
        run = run_reference(plan, loop)
        finished = run.timing.finished + time.time() - time.monotonic()
        gpus = plan.profile.engine.tensor_parallel_size
        return _stored(run.plan.paths, finished, run.process_seconds, gpus)

    def _run_pipeline(self, directory: Path) -> _Ran:
        arguments = as_options({**self._given, "runs_dir": directory, "name": PIPELINE}, PARAMETERS)
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-P", "-c", _ENTRY.format(pid=os.getpid()), "run", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        process_seconds = time.monotonic() - began
        if ended.returncode:
            raise HarvestError(f"harvest run ended with code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
        paths = RunPaths(root=Path(json.loads(ended.stdout)["run_dir"]))
        last = scan_shards(paths.root, "rollouts").select(pl.col("created_at").max()).collect().item()
        gpus = len(set(gpus_of_run(self._plan)))
        return _stored(paths, last.timestamp(), process_seconds, gpus)

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


def _stored(paths: RunPaths, finished: float, process_seconds: float, gpus: int) -> _Ran:
    """Return what the run in ``paths`` did, from its files."""
    sessions = read_sessions(paths.state / "generation.json")
    rows = scan_shards(paths.root, "rollouts").filter(pl.col("error").is_null())
    columns = (pl.len(), pl.col("num_completion_tokens").sum(), pl.col("num_prompt_tokens").sum())
    rollouts, tokens, prompt_tokens = rows.select(*columns).collect().row(0)
    return _Ran(
        place=paths.root,
        finished=finished,
        seconds=sum(session.seconds for session in sessions),
        start_seconds=sum(session.start_seconds for session in sessions),
        process_seconds=process_seconds,
        rollouts=rollouts,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        gpus=max(1, gpus),
    )


def _compare(candidate: Path, baseline: Path, *, noise_floor: NoiseFloor | None) -> EquivalenceReport:
    return compare_runs(baseline, candidate, noise_floor=noise_floor)
