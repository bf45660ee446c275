"""The rung at which earlier runs of the same model, profile and device finished, so that later ones begin there."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.files import publish_json, try_read_record
from tasks.generation.rung_state import RungState
from tasks.locks import run_lock
from tasks.node.gpu_selection import device_name
from tasks.plan.run_plan import RunPlan


@dataclass(frozen=True, kw_only=True)
class _SavedRung:
    rung: int
    model: str
    profile: str
    device: str


def load_rung(plan: RunPlan) -> int:
    """The rung to begin at: 0, or the one at which an earlier run of this model, profile and device finished."""
    # a damaged file costs a few steps down the ladder, not the run
    saved = try_read_record(_path(plan), _SavedRung)
    return saved.rung if saved else 0


def save_rung(plan: RunPlan, rung: int) -> None:
    """Save ``rung`` for later runs, if it differs from what is saved; without a file the saved rung is 0."""
    if rung != load_rung(plan):
        saved = _SavedRung(rung=rung, model=plan.model.name, profile=plan.profile.name, device=device_name())
        publish_json(asdict(saved), _path(plan))


def forget_rung(plan: RunPlan) -> bool:
    """Delete the saved rung and take the run of ``plan`` back to rung 0; True when either was set.

    Raises RunLocked when another process works on the run.
    """
    path, state_path = _path(plan), plan.paths.state / "oom_ladder.json"
    was_saved = path.exists()
    path.unlink(missing_ok=True)
    if not state_path.exists():
        return was_saved
    with run_lock(plan.paths.state / "lock"):
        state = RungState(state_path)
        stepped_down = state.rung > 0
        state.start_over()
    return was_saved or stepped_down


def _path(plan: RunPlan) -> Path:
    # the key has the profile's settings, not only its name: another setting makes another ladder
    key = {
        "model": plan.model.weights_digest,
        "profile": plan.profile.model_dump(mode="json", exclude={"name", "description"}),
        "rollouts_per_question": plan.rollouts_per_question,
        "device": device_name(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return plan.paths.root.parent / ".memory" / f"rung-{digest}.json"
