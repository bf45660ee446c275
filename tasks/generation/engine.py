"""Defines an engine for the generation loop: its protocol, its requests and its outputs.

The loop uses only this protocol, so a test or a profile can name another engine than vLLM.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from profiles.engine_settings import EngineSettings
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.policy import Adapter
from tasks.generation.token_sets import Array, TokenSets
from tasks.user_code import user_code

if TYPE_CHECKING:
    from tasks.plan.run_plan import RunPlan

_BUILT_IN = {"vllm": "tasks.generation.vllm_engine:VllmEngine"}
"""``module:Class`` by backend name. It is imported on demand, because that module imports this one."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """The arguments of an engine: the model's directory, the engine settings of the current rung, and its adapters."""

    model_path: Path
    settings: EngineSettings
    kv_cache_bytes: int | None = None
    """Size of the KV cache on each GPU; None when the engine measures it."""
    sampling_mask: bool = False
    """Whether outputs hold the tokens that each token was sampled from."""
    routed_experts: bool = False
    """Whether outputs hold the experts that each token went to."""
    lora: LoraSpec | None = None

    @classmethod
    def of(
        cls,
        plan: "RunPlan",
        settings: EngineSettings,
        *,
        weights: Path | None = None,
        lora: LoraSpec | None = None,
        kv_cache_bytes: int | None = None,
    ) -> "EngineSpec":
        """Return the arguments of an engine for ``plan`` with ``settings``; None for ``weights`` means the plan's."""
        sampling = plan.config.sampling
        return cls(
            model_path=weights or plan.model.path,
            settings=settings,
            kv_cache_bytes=kv_cache_bytes,
            sampling_mask=sampling.sampling_mask,
            routed_experts=sampling.routed_experts,
            lora=lora,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """One completion to sample; ``prompt_ids`` has shape (prompt tokens,)."""

    request_id: str
    prompt_ids: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    top_logprobs: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    more_sampling: Mapping[str, Any] = field(default_factory=dict)
    """What else the run sets, by vLLM's names: the ``LATER_FIELDS`` of ``tasks.plan.sampling`` that are not at their
    default, without ``stop``."""
    adapter: Adapter | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOutput:
    """A finished completion.

    ``logprobs`` has one value per completion token. ``top_ids`` and ``top_logprobs`` have shape (completion tokens,
    top_logprobs); they are None when the request asked for none.
    """

    request_id: str
    completion_ids: list[int]
    logprobs: Sequence[float] | Array
    top_ids: Sequence[Sequence[int]] | Array | None = None
    top_logprobs: Sequence[Sequence[float]] | Array | None = None
    finish_reason: str
    stop_reason: str | None = None
    sampling_mask: TokenSets | None = None
    """The tokens that each token was sampled from."""
    routed_experts: Array | None = None
    """Of shape (tokens, layers, experts per token), for the prompt and the completion but its last token, which no
    layer sees."""


@dataclass(kw_only=True)
class EngineStats:
    """Counters since the engine's start; ``running``, ``waiting`` and ``kv_cache_usage`` are the values of now."""

    generation_tokens: int = 0
    prompt_tokens: int = 0
    running: int = 0
    """Requests that the engine runs now."""
    waiting: int = 0
    """Requests that wait in the engine now."""
    kv_cache_usage: float = 0.0
    """From 0 to 1."""
    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    steps: int = 0
    """Steps of which the engine told whether they ran in a CUDA graph."""
    graph_steps: int = 0
    """Those of ``steps`` that did."""


@dataclass(frozen=True, kw_only=True)
class EngineLoad:
    """What several engines do now: requests in all, and the largest share of a KV cache in use, from 0 to 1."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0

    @classmethod
    def of(cls, loads: "Iterable[EngineStats | EngineLoad]") -> "EngineLoad":
        each = list(loads)
        return cls(
            running=sum(load.running for load in each),
            waiting=sum(load.waiting for load in each),
            kv_cache_usage=max((load.kv_cache_usage for load in each), default=0.0),
        )


def sampling_values(request: EngineRequest) -> dict[str, Any]:
    """Return what ``request`` samples by under vLLM's names, without its seed and logprobs."""
    return {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "ignore_eos": request.ignore_eos,
        **({"stop": list(request.stop)} if request.stop else {}),
        **request.more_sampling,
    }


class Engine(Protocol):
    """An engine that the generation loop can use."""

    stats: EngineStats

    def __init__(self, spec: EngineSpec) -> None: ...

    @property
    def version(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises ValueError when the engine cannot take it."""

    def step(self) -> list[EngineOutput]:
        """Advance all running requests by one engine step, and return the completions that finished in this step."""


@runtime_checkable
class ReloadingEngine(Engine, Protocol):
    """An engine that can take the weights of another checkpoint without a new start."""

    def load_weights(self, path: Path) -> None:
        """Replace all weights by those at ``path``, and forget what was computed with the ones before.

        Called with no request in the engine. Raises ReloadRefused unless exactly these weights are loaded; the engine
        is not used any more then.
        """


def load_engine_class(backend: str) -> type[Engine]:
    """Return the engine class called ``backend``: "vllm" or ``module:Class``. Raises ConfigError."""
    module, _, name = _BUILT_IN.get(backend, backend).partition(":")
    with user_code(lambda what: f"engine backend {backend!r} cannot be loaded ({what}). Give vllm, or module:Class"):
        loaded: type[Engine] = getattr(import_module(module), name)
    return loaded
