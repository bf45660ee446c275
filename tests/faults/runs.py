"""Small runs for tests to disturb, with the real engine or a cheap fake, and checks of their rows and processes."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import psutil

from tasks.generation.journal import Key, read_journal
from tasks.records import ROLLOUT_SCHEMA
from tests.support.harvest_command import environment

PROFILE = """
name = "faults"
model = "demo"
question_batch_size = 4
stall_timeout_s = {stall}
start_timeout_s = 300

[engine]
backend = "{backend}"
dtype = "float32"
max_model_len = 512
enforce_eager = true
enable_chunked_prefill = false
max_num_batched_tokens = 2048
max_num_seqs = 32
kv_cache_space_gib = {kv}

[expect]
device = "cpu"
"""
QUESTIONS = 16
SHARD_SIZE = 4
ARMS = 8
ROLLOUTS = QUESTIONS * ARMS
GIB = 2**30

Rows = dict[Key, tuple[tuple[int, ...], str | None]]


def write_profile(folder: Path, *, backend: str = "vllm", kv: int = 1, stall: float = 120, **_: Any) -> Path:
    path = folder / f"{backend.rpartition(':')[2].lower()}-{kv}.toml"
    path.write_text(PROFILE.format(backend=backend, kv=kv, stall=stall))
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
class GenerationProcess:
    """One process that generates a run, as ``tests.faults.generation_process`` does."""

    runs_dir: Path
    request: dict[str, Any]
    variables: dict[str, str] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict, init=False)
    started: ClassVar[list["GenerationProcess"]] = []

    def __post_init__(self) -> None:
        self.started.append(self)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.faults.generation_process",
                json.dumps({"runs_dir": str(self.runs_dir), **self.request}),
            ],
            env=environment(**self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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

    def wait_until(self, condition: Callable[[], Any], timeout: float = 240) -> None:
        """Wait for ``condition``. Fails when the process ends first."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"ended early: {self.process.communicate()}"
            assert time.monotonic() < deadline, "the condition did not hold in time"
            time.sleep(0.05)
        self.descendants()

    def wait_for_rollouts(self, count: int) -> None:
        self.wait_until(lambda: num_saved_rollouts(self.root) >= count)

    def finish(self, timeout: float = 280) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            self.descendants()
            try:
                stdout, stderr = self.process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, "the process does not end"
        assert stdout.startswith("{"), stderr
        outcome: dict[str, Any] = json.loads(stdout)
        return outcome

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.descendants()
        self.process.send_signal(number)
        self.process.communicate(timeout=60)


def command(process: psutil.Process) -> list[str]:
    """Return the words of the process's command line, or none when it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def start_generation(
    runs_dir: Path, profile: Path, *, limits: dict[str, int] | None = None, cgroup: Path | None = None, **variables: str
) -> GenerationProcess:
    """Start to generate a run. ``limits`` are resource limits by name; the process writes its pid to ``cgroup``."""
    request = {"parameters": parameters(profile), "limits": limits or {}, "cgroup": cgroup and str(cgroup)}
    return GenerationProcess(runs_dir=runs_dir, request=request, variables=variables)


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


def assert_nothing_left(seen: dict[int, float], within: float = 10.0) -> None:
    """Fail unless every process of ``seen`` (start times by pid) has ended ``within`` seconds."""
    deadline = time.monotonic() + within
    while alive := list(_alive(seen)):
        assert time.monotonic() < deadline, [command(process) for process in alive]
        time.sleep(0.1)


def _alive(seen: dict[int, float]) -> Iterator[psutil.Process]:
    for pid, started in seen.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                yield process
