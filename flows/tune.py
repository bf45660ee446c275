"""Tries settings of a profile on this node: a real ``harvest run`` for each, cut off after some minutes of generation.

A candidate's run has a directory of its own, so nothing is resumed and no rung of the OOM ladder is remembered. Its
time counts from its first finished rollout: how long an engine loads does not matter to a long run.
"""

import datetime
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.child_run import run_command
from flows.server.interruption import INTERRUPTED
from profiles.load import SettingsError
from profiles.profile_text import profile_text
from profiles.schema import Profile
from tasks.errors import DamagedFile
from tasks.files import publish_json, publish_text
from tasks.generation.generation_log import read_sessions
from tasks.generation.rung_state import RungState
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.preflight import check_node_for
from tasks.node.run_batch import choose_run_batch
from tasks.node.telemetry_summary import summarize_telemetry
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths
from tasks.results.tuning import Trial, Values, candidate, fastest_of, label, search, settings_of

POLL_SECONDS = 0.5
"""Time between two looks at a candidate's run."""
END_SECONDS = 30.0
"""How long an interrupted run has; it takes ten seconds at most."""
NAME = "tune"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best profile, and the text of its file."""

    profile: Profile
    trial: Trial
    text: str


class Tuner:
    """One search, in a directory of its own below the runs directory. ``trials`` has what was measured so far."""

    def __init__(self, plan: RunPlan, given: Mapping[str, Any], *, minutes: float, log: Callable[[str], None]) -> None:
        """``given`` are the parameters of ``plan``. Raises ConfigError when the model's files cannot be read."""
        self._plan, self._minutes, self._log = plan, minutes, log
        # the batch and the engine's settings are part of each candidate's profile
        self._given = {name: value for name, value in given.items() if name not in ("question_batch_size", "engine")}
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        self.directory = plan.paths.root.parent / f"{NAME}-{plan.profile.name}-{stamp}"
        self.trials: list[Trial] = []
        self._running: subprocess.Popen[bytes] | None = None
        profile, per_question = plan.profile, plan.rollouts_per_question
        batch = choose_run_batch(plan)
        if batch is not None:
            sequences = batch.sequences
        else:
            assert isinstance(profile.question_batch_size, int)
            sequences = min(profile.question_batch_size * per_question, profile.engine.sequences)
        self._settings = settings_of(
            profile, sequences=sequences, per_question=per_question, rollouts=plan.num_rollouts
        )

    def run(self, on_interrupt: Callable[[], object]) -> bool:
        """Measure candidate after candidate, and return whether all were. One that fails is a trial with the reason.

        Raises PreflightFailed, before anything is written, when the node cannot run the profile as it is. Ctrl-C calls
        ``on_interrupt`` at once, and then ends the run of the candidate that is being measured.
        """
        with lock_gpus(gpus_of_run(self._plan), run_id=self.directory.name, on_wait=self._log):
            check_node_for(self._plan).raise_if_failed()
            try:
                search(self._settings, self._measure)
            except KeyboardInterrupt:
                on_interrupt()
                if self._running is not None:
                    _interrupt(self._running)
                return False
        return True

    def best(self) -> Tuned | None:
        """Return the fastest profile so far; None when every candidate failed."""
        trial = fastest_of(self.trials)
        if trial is None:
            return None
        profile = candidate(self._plan.profile, self._settings, trial.values)
        found = profile.model_copy(
            update={
                "name": f"{profile.name[:58]}-tuned",
                "description": f"{profile.description}; tuned for {Path(self._plan.model.name).name}".lstrip("; "),
            }
        )
        told = [f"made by harvest tune for {self._plan.model.name}, {self._minutes:g} minutes per candidate"]
        told += [f"{item.label}: {item.failure or f'{item.tokens_per_s:,.0f} tokens/s'}" for item in self.trials]
        return Tuned(profile=found, trial=trial, text=profile_text(found, told))

    def _measure(self, values: Values) -> Trial:
        words = label(self._settings, values)
        self._log(f"candidate {len(self.trials) + 1}: {words} ...")
        trial = self._try(Trial(label=words, values=values))
        self.trials.append(trial)
        publish_json([asdict(item) for item in self.trials], self.directory / "tune.json")
        told = trial.failure or f"{trial.tokens_per_s:,.0f} tokens/s"
        self._log(f"candidate {len(self.trials)}: {words}: {told}")
        return trial

    def _try(self, trial: Trial) -> Trial:
        folder = self.directory / f"candidate-{len(self.trials) + 1}"
        try:
            profile = candidate(self._plan.profile, self._settings, trial.values)
        except SettingsError as error:
            return _failed(trial, str(error))
        file = folder / "profile.toml"
        publish_text(profile_text(profile), file)
        log = folder / "log"
        code = self._collect({**self._given, "profile": str(file), "runs_dir": str(folder), "name": NAME}, folder, log)
        if code not in (0, INTERRUPTED):
            return _failed(trial, _reason(log, code))
        try:
            return _measured(trial, RunPaths(root=next(folder.glob(f"{NAME}-*"))), profile, cut_off=code != 0)
        except (StopIteration, DamagedFile) as error:
            return _failed(trial, f"nothing was measured {error}".strip())

    def _collect(self, parameters: Mapping[str, Any], folder: Path, log: Path) -> int:
        """Collect until the time is over, and return the exit code."""
        with log.open("wb") as output:
            process = self._running = subprocess.Popen(
                run_command(parameters), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output
            )
            ends = None
            while True:
                try:
                    code = process.wait(timeout=POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if ends is None and _has_rollouts(folder):
                        ends = time.monotonic() + 60 * self._minutes
                    if ends is not None and time.monotonic() >= ends:
                        code = _interrupt(process)
                        break
            self._running = None
        return code


def _has_rollouts(folder: Path) -> bool:
    journals = folder.glob(f"{NAME}-*/state/journal/*.jsonl")
    # a journal says first that its shard was opened and questions were admitted
    return any(folder.glob(f"{NAME}-*/rollouts/*.parquet")) or any(
        b'"rollout"' in path.read_bytes() for path in journals
    )


def _interrupt(process: "subprocess.Popen[bytes]") -> int:
    """End a run as Ctrl-C does, so that it records what it did."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _measured(trial: Trial, paths: RunPaths, profile: Profile, *, cut_off: bool) -> Trial:
    if changes := RungState(paths.state / "oom_ladder.json").changes:
        # as a profile it would run out of memory each time
        return _failed(trial, f"out of memory: {changes[0].reason}")
    sessions = read_sessions(paths.state / "generation.json")
    seconds, tokens = sum(item.seconds for item in sessions), sum(item.tokens for item in sessions)
    if not seconds or not tokens:
        return _failed(trial, "no rollout was finished in the time")
    seen = summarize_telemetry(paths.telemetry, profile)
    return Trial(
        label=trial.label,
        values=trial.values,
        # a session ends with its last finished rollout, and others have made tokens since when the run is cut off; but
        # telemetry knows times only to a second
        tokens_per_s=(seen.tokens_per_s if cut_off else None) or tokens / seconds,
        running=seen.running,
        kv_cache_usage=seen.kv_cache_usage,
        preemptions=seen.preemptions,
        graph_step_share=seen.graph_step_share,
        seconds=seconds,
    )


def _failed(trial: Trial, reason: str) -> Trial:
    return Trial(label=trial.label, values=trial.values, failure=reason)


def _reason(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("harvest: error: ") for line in lines if line.startswith("harvest: error: ")]
    return (errors or lines or [f"harvest run ended with code {code}"])[-1][-500:]
