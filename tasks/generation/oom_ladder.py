"""What to try after memory ran out: fewer sequences, then smaller graphs, then none.

vLLM preallocates its KV cache, so fewer prompts per call cure nothing. What does: fewer sequences and batched tokens
per step together with a smaller reservation, then a smaller CUDA-graph capture, then eager execution.
"""

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiles.schema import EngineSettings, Profile
from tasks.errors import MemoryKind, Phase
from tasks.files import publish_json, read_json
from tasks.locks import run_lock
from tasks.node.engine_memory import default_batched_tokens
from tasks.node.gpu_reading import NoDriverError
from tasks.node.gpu_selection import read_all_gpus
from tasks.node.nvml import PynvmlReader
from tasks.plan.run_plan import RunPlan
from tasks.units import GIB

UTILIZATION_STEP = 0.05
LEAST_UTILIZATION = 0.30
SMALL_CAPTURE = 64


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Batch and engine settings at one step of the ladder; index 0 is the profile as it stands."""

    index: int
    question_batch_size: int
    engine: EngineSettings

    def describe(self) -> dict[str, Any]:
        """The settings that differ between rungs, for reports."""
        return {
            "rung": self.index,
            "question_batch_size": self.question_batch_size,
            "max_num_seqs": self.engine.max_num_seqs,
            "max_num_batched_tokens": self.engine.max_num_batched_tokens,
            "gpu_memory_utilization": self.engine.gpu_memory_utilization,
            "kv_cache_space_gib": self.engine.kv_cache_space_gib,
            "max_cudagraph_capture_size": self.engine.max_cudagraph_capture_size,
            "enforce_eager": self.engine.enforce_eager,
        }


def build_ladder(profile: Profile, rollouts_per_question: int) -> list[Rung]:
    """All rungs for ``profile``, from the profile itself down to one question, eager."""
    engine = profile.engine.model_copy(
        update={"max_num_seqs": min(profile.engine.max_num_seqs, profile.question_batch_size * rollouts_per_question)}
    )
    rungs = [Rung(index=0, question_batch_size=profile.question_batch_size, engine=engine)]
    while rungs[-1].question_batch_size > 1:
        rungs.append(_halved(rungs[-1], profile))
    if not rungs[-1].engine.enforce_eager:
        last = rungs[-1]
        rungs.append(
            Rung(
                index=last.index + 1,
                question_batch_size=1,
                engine=last.engine.model_copy(update={"enforce_eager": True, "max_cudagraph_capture_size": None}),
            )
        )
    return rungs


def _halved(rung: Rung, profile: Profile) -> Rung:
    engine = rung.engine
    index = rung.index + 1
    changes: dict[str, Any] = {
        "max_num_seqs": max(1, engine.max_num_seqs // 2),
        "gpu_memory_utilization": _less_utilization(engine.gpu_memory_utilization),
    }
    tokens = engine.max_num_batched_tokens
    if tokens is not None:
        # without chunked prefill a whole prompt must fit into one step
        least = 256 if engine.enable_chunked_prefill else engine.max_model_len
        changes["max_num_batched_tokens"] = max(min(tokens, least), tokens // 2)
    elif profile.expect.device == "cuda" and engine.enable_chunked_prefill:
        # a profile that does not state the GPU's memory gets the smaller default: a rung must not raise a setting
        memory, name = profile.expect.gpu_memory_gib or 0, profile.expect.gpu_name or ""
        changes["max_num_batched_tokens"] = default_batched_tokens(int(memory * GIB), name) // 2
    if engine.kv_cache_space_gib is not None:
        changes["kv_cache_space_gib"] = max(1, engine.kv_cache_space_gib // 2)
    if index >= 2 and not engine.enforce_eager:
        changes["max_cudagraph_capture_size"] = min(SMALL_CAPTURE, engine.max_cudagraph_capture_size or SMALL_CAPTURE)
    return Rung(
        index=index,
        question_batch_size=max(1, rung.question_batch_size // 2),
        engine=engine.model_copy(update=changes),
    )


def _less_utilization(share: float) -> float:
    return round(max(min(share, LEAST_UTILIZATION), share - UTILIZATION_STEP), 4)


@dataclass(frozen=True, kw_only=True)
class RungChange:
    """One step down: when (UTC, ISO 8601), from which rung to which, which memory ran out in which phase and why, and
    the settings of the new rung. ``node`` is where, in a run of several nodes."""

    at: str
    from_rung: int
    to_rung: int
    kind: MemoryKind
    phase: Phase
    reason: str
    settings: dict[str, Any]
    node: str | None = None


class RungState:
    """The run's rung, kept on disk, so that it survives task retries, flow retries and later runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        value = read_json(path)
        stored = value if isinstance(value, dict) else {}
        self.rung = int(stored.get("rung", 0))
        self.changes = [RungChange(**change) for change in stored.get("changes", [])]

    def begin_at(self, rung: int) -> None:
        """Start a fresh run at ``rung``; a run that already has state keeps it."""
        if rung and not self._path.exists():
            self.rung = rung
            self._publish()

    def start_over(self) -> None:
        """Begin at the full batch again; what was tried stays on record."""
        if self.rung:
            self.rung = 0
            self._publish()

    def step_down(self, change: RungChange) -> None:
        self.rung = change.to_rung
        self.changes.append(change)
        self._publish()

    def record(self, changes: Iterable[RungChange]) -> None:
        """Note steps that were taken on other nodes; this run's own rung stays."""
        known = {(change.at, change.node, change.to_rung) for change in self.changes}
        if new := [change for change in changes if (change.at, change.node, change.to_rung) not in known]:
            self.changes += new
            self._publish()

    def _publish(self) -> None:
        publish_json({"rung": self.rung, "changes": [asdict(change) for change in self.changes]}, self._path)


# MERGED from @rung_memory: The rung of the OOM ladder that worked last time, per model, profile and device.
def recall_rung(plan: RunPlan) -> int:
    """The rung to begin at: 0, or the one at which an earlier run of this model, profile and device finished."""
    value = read_json(_path(plan))
    rung = value.get("rung") if isinstance(value, dict) else None
    return rung if isinstance(rung, int) and rung >= 0 else 0


def remember_rung(plan: RunPlan, rung: int) -> None:
    """Keep ``rung`` for later runs; a run that never stepped down forgets nothing and stores nothing."""
    if rung != recall_rung(plan):
        publish_json(
            {"rung": rung, "model": plan.model.name, "profile": plan.profile.name, "device": device_name()}, _path(plan)
        )


def forget_rung(plan: RunPlan) -> bool:
    """Forget what was remembered, and the rung that this run itself is on; True when there was something.

    Raises RunLocked when the run is being worked on.
    """
    path, state = _path(plan), plan.paths.state
    known = path.exists()
    path.unlink(missing_ok=True)
    if not (state / "oom_ladder.json").exists():
        return known
    with run_lock(state / "lock"):
        rung = RungState(state / "oom_ladder.json")
        known = known or rung.rung > 0
        rung.start_over()
    return known


def _path(plan: RunPlan) -> Path:
    # the profile's settings, not only its name: a changed profile has another ladder
    key = {
        "model": plan.model.weights_digest,
        "profile": plan.profile.model_dump(mode="json", exclude={"name", "description"}),
        "rollouts_per_question": plan.rollouts_per_question,
        "device": device_name(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return plan.paths.root.parent / ".memory" / f"rung-{digest}.json"


def device_name() -> str:
    """What computes on this node: its GPUs' names, or without a driver the machine's architecture."""
    try:
        reader = PynvmlReader()
        names = sorted({gpu.name or "unknown" for gpu in read_all_gpus(reader)})
        return ", ".join(names) or platform.machine()
    except NoDriverError:
        return platform.machine()
