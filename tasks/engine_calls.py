"""An engine as scripts use it: a call with many prompts, which returns when the last of them has ended."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from tasks.engine import Engine, EngineOutput, EngineRequest, EngineSpec, VllmCalls, VllmEngine, load_engine_class


class EngineCalls(Protocol):
    """What a reference loop needs of an engine. What a call returned is read only after the last call was timed."""

    @property
    def version(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, requests: Sequence[EngineRequest], *, text: bool) -> list[Any]:
        """One call with all ``requests``; returns outputs in their order, for ``finished``."""

    def finished(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        """What a call returned, under the ids of its ``requests``."""


class SteppedCalls:
    """Calls of an engine that a profile names in place of vLLM, made of its own steps."""

    def __init__(self, spec: EngineSpec, engine_class: type[Engine]) -> None:
        self._engine = engine_class(spec)

    @property
    def version(self) -> str:
        return self._engine.version

    @property
    def dtype(self) -> str:
        return self._engine.dtype

    def generate(self, requests: Sequence[EngineRequest], *, text: bool) -> list[Any]:
        for request in requests:
            self._engine.add(request)
        finished: dict[str, EngineOutput] = {}
        while len(finished) < len(requests):
            finished |= {output.request_id: output for output in self._engine.step()}
        return [finished[request.request_id] for request in requests]

    def finished(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        return list(outputs)


def load_calls(backend: str) -> Callable[[EngineSpec], EngineCalls]:
    """What makes the calls of the engine ``module:Class``: vLLM's own ``LLM.generate``, unless it is another engine.

    Raises ConfigError.
    """
    engine_class = load_engine_class(backend)
    return VllmCalls if engine_class is VllmEngine else partial(SteppedCalls, engine_class=engine_class)
