"""Defines an engine as scripts use it: one call takes many prompts and returns when the last completion is finished."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from tasks.generation.engine import Engine, EngineOutput, EngineRequest, EngineSpec, load_engine_class
from tasks.generation.vllm_engine import VllmBatchEngine, VllmEngine


class BatchEngine(Protocol):
    """An engine that a reference loop can use.

    ``generate`` is timed, and returns the engine's own outputs; ``convert_outputs`` converts them after the last call.
    """

    @property
    def version(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, requests: Sequence[EngineRequest], *, text: bool, only_ids: bool = False) -> list[Any]:
        """Complete all ``requests`` in one call, and return one output per request, in their order.

        ``text`` says whether the engine decodes text token by token. With ``only_ids`` it need not heed seeds, and
        returns no logprobs.
        """

    def convert_outputs(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        """Return the outputs of one ``generate`` call, under the ids of its ``requests``."""

    def count_tokens(self, outputs: Sequence[Any]) -> int:
        """Return the number of completion tokens in the outputs of one ``generate`` call."""


class SteppedBatchEngine:
    """Runs whole batches on an engine other than vLLM: steps the engine until the batch is finished."""

    def __init__(self, spec: EngineSpec, engine_class: type[Engine]) -> None:
        self._engine = engine_class(spec)

    @property
    def version(self) -> str:
        return self._engine.version

    @property
    def dtype(self) -> str:
        return self._engine.dtype

    def generate(self, requests: Sequence[EngineRequest], *, text: bool, only_ids: bool = False) -> list[Any]:
        for request in requests:
            self._engine.add(request)
        finished: dict[str, EngineOutput] = {}
        while len(finished) < len(requests):
            finished |= {output.request_id: output for output in self._engine.step()}
        return [finished[request.request_id] for request in requests]

    def convert_outputs(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        return list(outputs)

    def count_tokens(self, outputs: Sequence[Any]) -> int:
        return sum(len(output.completion_ids) for output in outputs)


def load_batch_engine(
    backend: str, arguments: Callable[[EngineSpec], dict[str, Any]] | None = None
) -> Callable[[EngineSpec], BatchEngine]:
    """Return a function that builds the batch engine of ``backend``: ``LLM.generate``, or the steps of another engine.

    vLLM is given ``arguments``; by default those of the generation loop's engine. Raises ConfigError.
    """
    engine_class = load_engine_class(backend)
    if engine_class is VllmEngine:
        return partial(VllmBatchEngine, arguments=arguments)
    return partial(SteppedBatchEngine, engine_class=engine_class)
