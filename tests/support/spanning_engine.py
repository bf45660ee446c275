"""An engine without a model on the GPUs of several nodes: processes in its placement group, as vLLM's Ray executor has.

It computes nothing that needs them, and waits for all of them in every step.
"""

import os
from typing import Any

from tasks.generation.engine import EngineOutput, EngineSpec
from tasks.generation.ray_group import placement_group
from tests.support.fake_engines import FakeEngine
from tests.support.patience import pause


class Part:
    """The process on one GPU."""

    def place(self) -> str:
        """Return the node and the GPU."""
        import ray

        [gpu] = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return f"{os.environ['HARVEST_NODE']}:{gpu}"

    def step(self) -> None:
        """Take part in a step."""


class SpanningEngine(FakeEngine):
    """Its version names the GPUs. When a part is gone it stands still, as one does whose NCCL waits for a peer."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # finds the cluster by RAY_ADDRESS, as vLLM does
        ray.init(logging_level="ERROR")
        group = placement_group()
        part = ray.remote(Part)
        self._parts: list[Any] = [
            part.options(
                num_cpus=0, num_gpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)
            ).remote()
            for index, bundle in enumerate(group.bundle_specs)
            if bundle.get("GPU")
        ]
        assert len(self._parts) == spec.settings.gpus
        self._places = ray.get([part.place.remote() for part in self._parts])

    @property
    def version(self) -> str:
        return f"fake on {' '.join(self._places)}, seen {os.environ['CUDA_VISIBLE_DEVICES']}"

    def step(self) -> list[EngineOutput]:
        import ray

        try:
            ray.get([part.step.remote() for part in self._parts])
        except ray.exceptions.RayError:
            while True:
                pause()
        return super().step()
