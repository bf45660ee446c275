"""The engine, as the generation loop sees it, and vLLM behind that view. The only module that imports vllm."""

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from profiles.schema import EngineSettings
from tasks.errors import ConfigError
from tasks.generation.partial_completion import Array, GrowingCompletion


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is built from: the model's directory and final engine arguments."""

    model_path: Path
    settings: EngineSettings


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


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOutput:
    """A finished completion. ``logprobs`` is as long as ``completion_ids``; ``top_ids`` and ``top_logprobs`` have
    shape (completion tokens, top_logprobs), or are None when none were asked for."""

    request_id: str
    completion_ids: list[int]
    logprobs: Sequence[float] | Array
    top_ids: Sequence[Sequence[int]] | Array | None = None
    top_logprobs: Sequence[Sequence[float]] | Array | None = None
    finish_reason: str
    stop_reason: str | None = None


@dataclass(kw_only=True)
class EngineStats:
    """Counters of an engine since its start; ``kv_cache_usage`` is a share of 1."""

    generation_tokens: int = 0
    prompt_tokens: int = 0
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0


class Engine(Protocol):
    """What the generation loop needs of an engine."""

    stats: EngineStats

    def __init__(self, spec: EngineSpec) -> None: ...

    @property
    def version(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises ValueError when the engine cannot take it."""

    def step(self) -> list[EngineOutput]:
        """Advance all running requests by one engine step; return those that finished."""

    def ended_process(self) -> str | None:
        """Which process of the engine's own ended, and how; None while all live, or when it has none."""


def load_engine_class(backend: str) -> type[Engine]:
    """The engine class called ``backend``: "vllm", or ``module:Class``. Raises ConfigError."""
    if backend == "vllm":
        return VllmEngine
    module, _, name = backend.partition(":")
    try:
        loaded: type[Engine] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"engine backend {backend!r} cannot be loaded: {error}. Give vllm, or module:Class"
        ) from error
    return loaded


@contextlib.contextmanager
def kept_for_good() -> Iterator[None]:
    """For a process's start: what is made inside is never looked through for garbage, as an engine's modules and
    layers all stay. Looking takes a tenth of the start, and later comes between two steps."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def engine_environment(settings: EngineSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """Environment of a replica process, set before vllm is imported there; what the user has set stands."""
    own_process = settings.tensor_parallel_size > 1
    defaults = {
        # inside the replica's process the engine raises typed errors, and no second process can be orphaned
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if own_process else "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_COLOR": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # a forked engine process would not ask to die with its parent
    chosen = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if settings.kv_cache_space_gib is not None:
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_space_gib)
        # threads that wait by spinning take the cores from the flow, its server, and each other: on a busy machine that
        # makes a step several times as long
        defaults["OMP_WAIT_POLICY"] = "passive"
        if settings.enforce_eager:
            # else the first step compiles one small function (the rank of a token) for seconds, to gain nothing
            defaults["TORCHDYNAMO_DISABLE"] = "1"
    if settings.batch_invariant:
        chosen |= {"VLLM_BATCH_INVARIANT": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return {**defaults, **inherited, **chosen}


@dataclass
class VllmEngine:
    """vLLM's engine, fed request by request."""

    spec: EngineSpec
    stats: EngineStats = field(default_factory=EngineStats)
    _growing: dict[str, GrowingCompletion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(
            EngineArgs(**engine_arguments(self.spec)),
            # vLLM's defaults for offline batches, the same as its LLM class takes
            usage_context=UsageContext.LLM_CLASS,
        )

    @property
    def version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    @property
    def dtype(self) -> str:
        return str(self._engine.model_config.dtype).removeprefix("torch.")

    def add(self, request: EngineRequest) -> None:
        # text is decoded once, when the completion is whole
        params = _sampling_params(request, detokenize=False)
        own_id = self._engine.add_request(request.request_id, {"prompt_token_ids": request.prompt_ids}, params)
        if not request.stop:
            self._growing[own_id] = GrowingCompletion(request_id=request.request_id, top_logprobs=request.top_logprobs)
        self.stats.prompt_tokens += len(request.prompt_ids)

    def step(self) -> list[EngineOutput]:
        # vLLM's own LLMEngine.step without its statistics per request and token, which nobody reads here and which the
        # next step would wait for
        core = self._engine.engine_core
        outputs = core.get_output()
        self._count(outputs)
        whole: dict[str, GrowingCompletion] = {}
        due = [output for output in outputs.outputs if not self._kept(output, whole)]
        processed = self._engine.output_processor.process_outputs(due, engine_core_timestamp=outputs.timestamp)
        core.abort_requests(processed.reqs_to_abort)
        return [
            _grown(output, grown) if (grown := whole.get(output.request_id)) else _finished(output)
            for output in processed.request_outputs
            if output.finished
        ]

    def _kept(self, output: Any, whole: dict[str, GrowingCompletion]) -> bool:
        """Keep a step's tokens of an unfinished request; a finished one gets all of its own, and is put in ``whole``.

        vLLM takes several tokens as well as one, and needs them only when the request ends, unless it looks for stop
        strings; its lists of logprobs, which grow token by token, cost a twentieth of a small model's step.
        """
        growing = self._growing.get(output.request_id)
        if growing is None:
            return False
        growing.take(output.new_token_ids, output.new_logprobs)
        if output.finish_reason is None:
            return True
        output.new_token_ids, output.new_logprobs = growing.completion_ids, None
        whole[growing.request_id] = self._growing.pop(output.request_id)
        return False

    def _count(self, outputs: Any) -> None:
        stats, scheduler = self.stats, outputs.scheduler_stats
        stats.generation_tokens += sum(len(output.new_token_ids) for output in outputs.outputs)
        stats.preemptions += sum(
            event.type.name == "PREEMPTED" for output in outputs.outputs for event in output.events or ()
        )
        if scheduler is not None:
            stats.running = scheduler.num_running_reqs
            stats.waiting = scheduler.num_waiting_reqs
            stats.kv_cache_usage = scheduler.kv_cache_usage
            stats.prefix_cache_queries += scheduler.prefix_cache_stats.queries
            stats.prefix_cache_hits += scheduler.prefix_cache_stats.hits

    def ended_process(self) -> str | None:
        # present only when the engine core has a process of its own; the core itself watches its workers
        manager = getattr(getattr(self._engine.engine_core, "resources", None), "engine_manager", None)
        for process in manager.processes if manager else ():
            if (code := process.exitcode) is not None:
                return f"{process.name} ended by " + (f"signal {-code}" if code < 0 else f"exit code {code}")
        return None


class VllmCalls:
    """vLLM's own ``LLM.generate``, call by call, as scripts use it: what the generation loop is measured against."""

    def __init__(self, spec: EngineSpec) -> None:
        from vllm import LLM

        self._llm = LLM(**engine_arguments(spec))

    @property
    def version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    @property
    def dtype(self) -> str:
        return str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def generate(self, requests: Sequence[EngineRequest], *, text: bool) -> list[Any]:
        """One call with all ``requests``; returns vLLM's outputs in their order, for ``finished``.

        ``text`` has vLLM decode text token by token, which is its default.
        """
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        params = [_sampling_params(request, detokenize=text) for request in requests]
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False)
        return outputs

    def finished(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        """What a call returned, under the ids of its ``requests``."""
        return [
            replace(_finished(output), request_id=request.request_id)
            for request, output in zip(requests, outputs, strict=True)
        ]


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """vLLM's EngineArgs for ``spec``; settings left at None are left to vLLM."""
    settings = spec.settings
    not_arguments = {"batch_invariant", "kv_cache_space_gib", "backend"}
    chosen = settings.model_dump(exclude=not_arguments, exclude_none=True)
    return {**chosen, "model": os.fspath(spec.model_path), "logprobs_mode": "processed_logprobs"}


def _sampling_params(request: EngineRequest, *, detokenize: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        ignore_eos=request.ignore_eos,
        logprobs=request.top_logprobs,
        flat_logprobs=True,
        # stop strings are looked for in the text as it grows
        detokenize=detokenize or bool(request.stop),
        stop=list(request.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _grown(output: Any, grown: GrowingCompletion) -> EngineOutput:
    completion = output.outputs[0]
    top_ids, top_logprobs = grown.top or (None, None)
    return EngineOutput(
        request_id=output.request_id,
        completion_ids=list(completion.token_ids),
        logprobs=grown.logprobs,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        **_ending(completion),
    )


def _finished(output: Any) -> EngineOutput:
    completion = output.outputs[0]
    flat = completion.logprobs
    starts, ends = flat.start_indices, flat.end_indices
    wanted = ends[0] - starts[0] > 1 if starts else False
    return EngineOutput(
        request_id=output.request_id,
        completion_ids=list(completion.token_ids),
        # vLLM puts the sampled token first, then the most likely ones in order
        logprobs=[flat.logprobs[start] for start in starts],
        top_ids=[flat.token_ids[start + 1 : end] for start, end in zip(starts, ends, strict=True)] if wanted else None,
        top_logprobs=[flat.logprobs[start + 1 : end] for start, end in zip(starts, ends, strict=True)]
        if wanted
        else None,
        **_ending(completion),
    )


def _ending(completion: Any) -> dict[str, Any]:
    reason = completion.stop_reason
    return {
        "finish_reason": str(completion.finish_reason),
        "stop_reason": None if reason is None else str(reason),
    }
