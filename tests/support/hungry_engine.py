"""A cheap engine that runs out of real memory."""

import os
import resource
from pathlib import Path

import numpy as np

from tasks.generation.engine import EngineOutput, EngineSpec
from tests.support.fake_engines import FakeEngine


class HungryEngine(FakeEngine):
    """Needs 512 MiB of host memory per request in flight; its process may grow by ``MEMORY_LIMIT`` times as much."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        grown = Path("/proc/self/statm").read_text().split()[0]
        limit = int(grown) * resource.getpagesize() + int(os.environ["MEMORY_LIMIT"]) * 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def step(self) -> list[EngineOutput]:
        np.empty(len(self.running) * 2**29, dtype=np.uint8)
        return super().step()
