"""Engines that fail while they use real memory or the real vLLM. Their settings are environment variables."""

import os
import resource
from pathlib import Path
from typing import Any

import torch

from tasks.generation.engine import EngineOutput, EngineSpec
from tasks.generation.engine_environment import METHOD_VARIABLE
from tasks.generation.vllm_engine import VllmEngine
from tests.support.fake_engines import FakeEngine, completions_allowed
from tests.support.patience import pause


class HungryEngine(FakeEngine):
    """Needs 512 MiB of host memory per request in flight; its process may grow by ``MEMORY_LIMIT`` times as much."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        grown = Path("/proc/self/statm").read_text().split()[0]
        limit = int(grown) * resource.getpagesize() + int(os.environ["MEMORY_LIMIT"]) * 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def step(self) -> list[EngineOutput]:
        torch.empty(len(self.running) * 2**29, dtype=torch.uint8)
        return super().step()


class ForkingEngine(VllmEngine):
    """vLLM that forks a core in its own process, as on a GPU, or does as ``FAKE_METHOD`` says; on a CPU it spawns."""

    def configure(self) -> Any:
        config = super().configure()
        os.environ[METHOD_VARIABLE] = os.environ.get("FAKE_METHOD", "fork")
        return config


class HeldEngine(ForkingEngine):
    """vLLM that makes no token once it has finished ``FAKE_HOLD_AFTER`` completions or a few more, as ``FakeEngine``.

    It reports progress all the same, so that it has not stalled: only its process can.
    """

    _finished = 0

    def step(self) -> list[EngineOutput]:
        if self._finished >= completions_allowed():
            self.stats.generation_tokens += 1
            pause()
            return []
        outputs = super().step()
        self._finished += len(outputs)
        return outputs


class OneGpuEngine(ForkingEngine):
    """vLLM as on one GPU, whose core computes in its own process; on a CPU such a core would have a worker process."""

    def arguments(self) -> dict[str, Any]:
        return {
            **super().arguments(),
            "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
        }
