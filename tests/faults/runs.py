"""Small runs for tests to disturb, with the real engine or a cheap fake, and checks of their rows and processes."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import psutil

from tasks.generation.journal import Key, read_journal
from tasks.records import ROLLOUT_SCHEMA
from tests.support.harvest_command import environment
from tests.support.patience import Found, await_exit, until
from tests.support.terminal import Terminal

PROFILE = """
name = "faults"
model = "demo"
question_batch_size = 4
stall_timeout_s = {stall}
start_timeout_s = {never}

[engine]
backend = "{backend}"
dtype = "float32"
max_model_len = 512
enforce_eager = true
enable_chunked_prefill = false
max_num_batched_tokens = 2048
max_num_seqs = 32
kv_cache_space_gib = {kv}
core_process = {core}

[expect]
device = "cpu"
"""
QUESTIONS = 16
SHARD_SIZE = 4
ARMS = 8
ROLLOUTS = QUESTIONS * ARMS
GIB = 2**30
NEVER = 10**6
"""Seconds after which the product would end an engine that does nothing. A hang ends earlier, with its test."""

Rows = dict[Key, tuple[tuple[int, ...], str | None]]


def write_profile(
    folder: Path, *, backend: str = "vllm", kv: int = 1, stall: float = NEVER, core_process: bool = False
) -> Path:
    path = folder / f"{backend.rpartition(':')[2].lower()}-{kv}.toml"
    path.write_text(PROFILE.format(backend=backend, kv=kv, stall=stall, never=NEVER, core=str(core_process).lower()))
    return path


def parameters(profile: Path, **changes: Any) -> dict[str, Any]:
    return {
        "profile": str(profile),
        "dataset": "demo",
        "questions": QUESTIONS,
        "shard_size": SHARD_SIZE,
        "max_tokens": 64,
        **changes,
    }


@dataclass(kw_only=True)
class RunProcess:
    """One process that makes a run: with Prefect, or without as ``tests.faults.generation_process`` does."""

    runs_dir: Path
    module_and_arguments: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    terminal: Terminal | None = None
    """Where the process writes instead of into files."""
    folder: Path | None = None
    """Where what the process writes is kept; beside ``runs_dir`` by default."""
    seen: dict[int, float] = field(default_factory=dict, init=False)
    started: ClassVar[list["RunProcess"]] = []

    def __post_init__(self) -> None:
        self.started.append(self)
        folder = self.folder or self.runs_dir.parent
        self.outcome = folder / f"run-{len(self.started)}.json"
        self.log = self.outcome.with_suffix(".log")
        if self.terminal is not None:
            words = [sys.executable, "-m", *self.module_and_arguments]
            self.process = self.terminal.start(words, environment(**self.variables))
            return
        with self.outcome.open("wb") as outcome, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.module_and_arguments],
                env=environment(**self.variables),
                stdout=outcome,
                stderr=log,
                start_new_session=True,
            )

    @property
    def root(self) -> Path | None:
        return next((path.parent for path in self.runs_dir.glob("*/config.json")), None)

    def descendants(self) -> list[psutil.Process]:
        """Return the live processes under this one, and remember each in ``seen`` for ``assert_nothing_left``."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.seen |= {process.pid: process.create_time() for process in found}
            return found
        return []

    def replica(self) -> psutil.Process:
        return next(process for process in self.descendants() if "tasks.generation.replica" in command(process))

    def engine_core(self) -> psutil.Process:
        return next(
            process
            for process in self.descendants()
            if (words := command(process)) and ("EngineCore" in words[0] or "spawn_main" in " ".join(words))
        )

    def wait_until(self, condition: Callable[[], Found], waiting_for: str) -> Found:
        """Wait for ``condition``; returns what it returned. Fails when the process ends first."""
        found = until(condition, waiting_for, alive=[self.process], logs=self._logs())
        self.descendants()
        return found

    def wait_for_rollouts(self, count: int) -> None:
        self.wait_until(lambda: num_saved_rollouts(self.root) >= count, f"{count} rollouts are saved")

    def wait_for_end(self) -> int:
        """Wait until the process has ended by itself; returns its exit code."""
        until(self._has_ended, "the run ends", alive=[self.process], logs=self._logs())
        return self.process.wait()

    def finish(self) -> dict[str, Any]:
        """Wait until the process has ended by itself; returns the outcome or the error that it printed."""
        self.wait_for_end()
        told = self.outcome.read_text()
        assert told.startswith("{"), self.log.read_text()
        outcome: dict[str, Any] = json.loads(told)
        return outcome

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.descendants()
        self.process.send_signal(number)
        await_exit(self.process, "the killed process ends", logs=self._logs())

    def _has_ended(self) -> bool:
        self.descendants()
        return self.process.poll() is not None

    def _logs(self) -> list[Path]:
        return [self.log, *(logs(self.root) if self.root else [])]


def recorder_of(replica: psutil.Process) -> psutil.Process | None:
    """The process that ``replica`` forked; another one that it starts tracks resources of multiprocessing."""
    children = replica.children()
    return next((child for child in children if "resource_tracker" not in " ".join(command(child))), None)


def command(process: psutil.Process) -> list[str]:
    """Return the words of the process's command line, or none when it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def start_generation(
    runs_dir: Path,
    profile: Path,
    *,
    changes: dict[str, Any] | None = None,
    limits: dict[str, int] | None = None,
    cgroup: Path | None = None,
    folder: Path | None = None,
    **variables: str,
) -> RunProcess:
    """Start to generate a run without Prefect, with ``changes`` of the usual parameters.

    ``limits`` are resource limits by name; the process writes its pid to ``cgroup``.
    """
    request = {
        "runs_dir": str(runs_dir),
        "parameters": parameters(profile, **(changes or {})),
        "limits": limits or {},
        "cgroup": cgroup and str(cgroup),
    }
    return RunProcess(
        runs_dir=runs_dir,
        module_and_arguments=["tests.faults.generation_process", json.dumps(request)],
        variables=variables,
        folder=folder,
    )


def start_harvest(
    runs_dir: Path,
    profile: Path,
    *,
    more: Sequence[str] = (),
    changes: dict[str, Any] | None = None,
    terminal: Terminal | None = None,
    **variables: str,
) -> RunProcess:
    """Start ``harvest run`` with ``more`` options, in a process group of its own as from a terminal.

    On a ``terminal`` it shows what it does, and its summary; else it writes its report as JSON.
    """
    json = [] if terminal else ["--json"]
    given = [f"--runs-dir={runs_dir}", *options(profile, **(changes or {})), *more]
    return RunProcess(
        runs_dir=runs_dir,
        module_and_arguments=["flows.commands.cli", "run", *json, *given],
        variables=variables,
        terminal=terminal,
    )


def options(profile: Path, **changes: Any) -> list[str]:
    """The usual parameters, with ``changes``, as options of ``harvest run``."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in parameters(profile, **changes).items()]


def num_saved_rollouts(root: Path | None) -> int:
    """Count the rollouts that a restart keeps: in a journal, or in a published shard whose journal is gone."""
    if root is None:
        return 0
    journals = {path.stem: path for path in (root / "state" / "journal").glob("*.jsonl")}
    published = [path for path in (root / "rollouts").glob("shard-*.parquet") if path.stem not in journals]
    return SHARD_SIZE * ARMS * len(published) + sum(len(read_journal(path).finished) for path in journals.values())


def creation_times(root: Path) -> dict[Key, str]:
    """Return when each saved rollout was made, by its key."""
    stamps = {
        key: record["created_at"]
        for path in (root / "state" / "journal").glob("*.jsonl")
        for key, record in read_journal(path).finished.items()
    }
    for path in (root / "rollouts").glob("shard-*.parquet"):
        rows = pl.read_parquet(path, columns=["example_id", "arm_id", "sample_index", "created_at"])
        stamps |= {(row[0], row[1], row[2]): row[3].isoformat() for row in rows.iter_rows()}
    return stamps


def read_rows(root: Path) -> Rows:
    """Return every rollout of a run by its key. Fails on a duplicate and on a wrong schema."""
    rows: Rows = {}
    for path in sorted((root / "rollouts").glob("*.parquet")):
        frame = pl.read_parquet(path)
        assert frame.schema == ROLLOUT_SCHEMA
        for row in frame.iter_rows(named=True):
            key = (row["example_id"], row["arm_id"], row["sample_index"])
            assert key not in rows
            rows[key] = (tuple(row["completion_ids"]), row["error"])
    return rows


def only_run_dir(runs_dir: Path) -> Path:
    """Return the directory of the one run below ``runs_dir``."""
    (config,) = runs_dir.glob("*/config.json")
    return config.parent


def logs(root: Path) -> list[Path]:
    return sorted((root / "logs").glob("replica-*.log"))


def states(home: Path) -> list[str]:
    """The states of all flow runs, in their order, in the Prefect home of a server that has ended."""
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        return [state for (state,) in database.execute("SELECT state_type FROM flow_run ORDER BY created")]


def assert_nothing_left(seen: dict[int, float]) -> None:
    """Wait until every process of ``seen`` (start times by pid) has ended. Fails when one does not end by itself."""
    left: list[list[str]] = []

    def all_have_ended() -> bool:
        left[:] = [command(process) for process in _alive(seen)]
        return not left

    try:
        until(all_have_ended, "the processes under one that has ended are gone")
    except AssertionError as error:
        error.add_note(f"left: {left}")
        raise


def _alive(seen: dict[int, float]) -> Iterator[psutil.Process]:
    for pid, started in seen.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                yield process
