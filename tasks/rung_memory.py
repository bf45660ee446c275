"""The rung of the OOM ladder that worked last time, per model, profile and device."""

import hashlib
import json
import platform
from pathlib import Path

from tasks.gpu_reading import NoDriverError
from tasks.nvml import PynvmlReader
from tasks.oom_ladder import RungState
from tasks.run_lock import run_lock
from tasks.run_plan import RunPlan
from tasks.store import publish_json, read_json


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
        names = sorted({reader.gpu(index).name or "unknown" for index in range(reader.driver().gpu_count)})
        return ", ".join(names) or platform.machine()
    except NoDriverError:
        return platform.machine()
