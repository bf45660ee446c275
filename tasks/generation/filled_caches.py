"""Remembers for which engines a cache directory is filled, so that the replicas of a node may start at the same time.

Into an empty cache one replica compiles alone, and the others load what it wrote. The record lies in the same directory
as the graphs, so that both are lost together. If it is wrong, several replicas compile the same graphs, which takes
time and does no harm.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from profiles.engine_settings import EngineSettings
from tasks.node.engine_caches import StartKind
from tasks.node.gpu_selection import device_name
from tasks.plan.fingerprint import engine_versions
from tasks.plan.run_plan import RunPlan


class FilledCaches:
    """The record in the cache directory ``root``, for engines of the plan's model on this node."""

    def __init__(self, plan: RunPlan, root: Path) -> None:
        self._directory = root / "rollout-harvest"
        # read once: the pool asks again and again while an engine starts
        self._node = [plan.model.weights_digest, engine_versions(), device_name()]
        if plan.lora is not None:
            # graphs with room for adapters are others
            self._node.append(f"{plan.lora.slots} adapters of rank {plan.lora.rank}")

    def holds(self, engine: EngineSettings) -> bool:
        """Return whether an engine with these settings has started on this directory before."""
        return self._path(engine).exists()

    def add(self, engine: EngineSettings, kind: StartKind) -> None:
        """Record that an engine with these settings has started in the way ``kind``. A full disk is no error."""
        if kind != "not compiled":
            with contextlib.suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True)
                self._path(engine).touch()

    def _path(self, engine: EngineSettings) -> Path:
        key = [engine.model_dump(mode="json"), *self._node]
        return self._directory / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
