"""Engines of the real vLLM that a test holds, or whose parts it chooses. Their settings are environment variables."""

import os
from typing import Any

# the module of fake engines does without it in a process that has not imported it
import torch  # noqa: F401

from tasks.generation.engine import EngineOutput
from tasks.generation.engine_environment import METHOD_VARIABLE
from tasks.generation.vllm_engine import VllmEngine
from tests.support.fake_engines import completions_allowed
from tests.support.patience import pause


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
