"""Puts vLLM behind the engine protocol, request by request and in whole batches. No other module imports
vllm, but for ``weight_reload``, which vLLM's workers run.

Functions import vllm when they need it: the import takes seconds, and the parent of the replicas does not need it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from profiles.schema import EngineSettings
from tasks.errors import ConfigError, ReloadRefused
from tasks.generation.engine import EngineOutput, EngineRequest, EngineSpec, EngineStats, sampling_values
from tasks.generation.partial_completion import PartialCompletion
from tasks.generation.policy import Adapter
from tasks.generation.token_sets import token_sets
from tasks.generation.weight_reload import EXTENSION
from tasks.node.core_process import CORE_PROCESS_VARIABLE, has_core_process
from tasks.time_limits import time_limit
from tasks.user_code import text_of

READY_SECONDS = 86400
"""Within these seconds an engine core in its own process must be ready. The profile has the real limit. This one is the
same for all runs, as vLLM makes it a part of its compile cache's key."""
_GIVEN_UP = ("abort", "error")
"""Finish reasons of requests that an engine core in its own process ends when it is told to end, or cannot take one.
Such a part of a completion must not count as one."""
METHOD_VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
"""vLLM's own switch: fork or spawn. It is no part of its compile cache's key."""
STEP_SECONDS = 300.0
"""Within these seconds the workers of several GPUs must answer for one step; vLLM's own limit."""


def engine_environment(settings: EngineSettings, inherited: Mapping[str, str], *, on_gpu: bool) -> dict[str, str]:
    """Return the environment of a process that imports vllm: the ``inherited`` one and vLLM's variables.

    A value of the user wins, except over a variable that the settings decide.
    """
    core_process = has_core_process(settings, on_gpu=on_gpu, environment=inherited)
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_COLOR": "0",
        "TOKENIZERS_PARALLELISM": "false",
        # an engine process that is forked has imported everything, which takes 20 s on a node with GPUs. The replica
        # runs no threads of tokenizers, Polars or OpenMP before, and uses NVML alone: vLLM spawns by itself where CUDA
        # is initialised. On a CPU vLLM always spawns
        METHOD_VARIABLE: "fork" if on_gpu else "spawn",
        # the start has its limit in the profile; vLLM's own of ten minutes would end a slow one sooner
        "VLLM_ENGINE_READY_TIMEOUT_S": str(READY_SECONDS),
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": f"{time_limit(STEP_SECONDS):.0f}",
    }
    chosen = {CORE_PROCESS_VARIABLE: "1" if core_process else "0"}
    if settings.kv_cache_space_gib is not None:
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_space_gib)
        # threads that spin while they wait take cores from the flow, its server and each other: on a busy machine a
        # step then takes several times as long
        defaults["OMP_WAIT_POLICY"] = "passive"
        if settings.enforce_eager:
            # otherwise the first step compiles one small function (the rank of a token) for seconds, for no gain
            defaults["TORCHDYNAMO_DISABLE"] = "1"
    if settings.batch_invariant:
        chosen |= {"VLLM_BATCH_INVARIANT": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return {**defaults, **inherited, **chosen}


def import_vllm() -> None:
    """Import what an engine needs, which uses no GPU and starts no engine."""
    import vllm.engine.arg_utils
    import vllm.v1.engine.core
    import vllm.v1.engine.llm_engine  # noqa: F401


@dataclass
class VllmEngine:
    """vLLM's LLMEngine, fed request by request."""

    spec: EngineSpec
    stats: EngineStats = field(default_factory=EngineStats)
    _partial: dict[str, PartialCompletion] = field(default_factory=dict)
    _loaded: list[str] | None = None
    """Of each worker, a digest of the tensors that it loads; None before the first other weights."""

    def __post_init__(self) -> None:
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_vllm_config(self.configure())
        # here a failure is that of a start, and not of the requests in flight
        for adapter in self.spec.lora.adapters if self.spec.lora else ():
            try:
                self._engine.add_lora(_lora_request(adapter))
            except Exception as error:
                raise ConfigError(
                    f"vLLM refuses the adapter {adapter.path}: {error}. Train it on this model"
                ) from error

    def configure(self) -> Any:
        """Return vLLM's whole configuration of the engine."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        # vLLM's defaults for offline batches, as in its LLM class
        return EngineArgs(**self.arguments()).create_engine_config(UsageContext.LLM_CLASS)

    def arguments(self) -> dict[str, Any]:
        # an engine without graphs need not say which steps ran in one
        graphs = {"cudagraph_metrics": not self.spec.settings.enforce_eager}
        return {"worker_extension_cls": EXTENSION, **engine_arguments(self.spec), **graphs}

    @property
    def version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    @property
    def dtype(self) -> str:
        return str(self._engine.model_config.dtype).removeprefix("torch.")

    def load_weights(self, path: Path) -> None:
        try:
            if self._loaded is None:
                self._loaded = self._in_workers("harvest_prove_reload", self.spec.model_path)
            if self._in_workers("harvest_reload", path) != self._loaded:
                raise ReloadRefused(f"the tensors of {path} are not those of {self.spec.model_path} by name or shape")
            if not self._engine.reset_prefix_cache(reset_connector=True):
                raise ReloadRefused("vLLM did not forget what it had computed with the weights of before")
        except ReloadRefused:
            raise
        except Exception as error:  # what a worker raises arrives as another type
            raise ReloadRefused(f"vLLM did not load {path}: {text_of(error)}") from error

    def _in_workers(self, method: str, path: Path) -> list[str]:
        """Call a method of ReloadingWorker; return its digest from each worker."""
        digests: list[str] = self._engine.collective_rpc(method, args=(os.fspath(path),))
        return digests

    def add(self, request: EngineRequest) -> None:
        # the recorder decodes the text once, when the completion is finished
        params = _sampling_params(request, detokenize=False)
        internal_id = self._engine.add_request(
            request.request_id,
            {"prompt_token_ids": request.prompt_ids},
            params,
            lora_request=_lora_request(request.adapter),
        )
        if not request.stop:
            self._partial[internal_id] = PartialCompletion(
                request_id=request.request_id, top_logprobs=request.top_logprobs
            )
        self.stats.prompt_tokens += len(request.prompt_ids)

    def step(self) -> list[EngineOutput]:
        # this is LLMEngine.step of vLLM without its statistics per request and token: nobody reads them, and they would
        # delay the next step
        core = self._engine.engine_core
        completed = self._process(core.get_output())
        # a core in its own process goes on meanwhile: what it has made waits in a queue, for requests to follow it soon
        waiting = getattr(core, "outputs_queue", None)
        while waiting is not None and not waiting.empty():
            completed += self._process(core.get_output())
        return completed

    def _process(self, outputs: Any) -> list[EngineOutput]:
        self._count(outputs)
        finished: dict[str, PartialCompletion] = {}
        due = [output for output in outputs.outputs if not self._hold_back(output, finished)]
        processed = self._engine.output_processor.process_outputs(due, engine_core_timestamp=outputs.timestamp)
        self._engine.engine_core.abort_requests(processed.reqs_to_abort)
        return [
            _from_partial(output, partial) if (partial := finished.get(output.request_id)) else _from_vllm(output)
            for output in processed.request_outputs
            if output.finished
        ]

    def _hold_back(self, output: Any, finished: dict[str, PartialCompletion]) -> bool:
        """Collect a step's tokens of one request. Return whether vLLM's output processor can do without them for now.

        When the request ends, ``output`` gets all of its tokens, and its completion goes into ``finished``. The output
        processor accepts many tokens at once. It needs them only at the end, unless it looks for stop strings.
        """
        partial = self._partial.get(output.request_id)
        if partial is None:
            return False
        partial.append(output.new_token_ids, output.new_logprobs)
        partial.append_stored(output.new_sampling_mask, output.routed_experts)
        if output.finish_reason is None:
            return True
        output.new_token_ids, output.new_logprobs = partial.completion_ids, None
        finished[partial.request_id] = self._partial.pop(output.request_id)
        return False

    def _count(self, outputs: Any) -> None:
        stats, scheduler = self.stats, outputs.scheduler_stats
        # a core in its own process makes tokens after a stop string, until it hears of it
        known = self._engine.output_processor.request_states
        stats.generation_tokens += sum(
            len(output.new_token_ids) for output in outputs.outputs if output.request_id in known
        )
        stats.preemptions += sum(
            event.type.name == "PREEMPTED" for output in outputs.outputs for event in output.events or ()
        )
        if scheduler is not None:
            stats.running = scheduler.num_running_reqs
            stats.waiting = scheduler.num_waiting_reqs
            stats.kv_cache_usage = scheduler.kv_cache_usage
            stats.prefix_cache_queries += scheduler.prefix_cache_stats.queries
            stats.prefix_cache_hits += scheduler.prefix_cache_stats.hits
            if (graph := scheduler.cudagraph_stats) is not None:
                stats.steps += 1
                stats.graph_steps += graph.runtime_mode != "NONE"


class VllmBatchEngine:
    """Calls ``LLM.generate`` of vLLM as scripts do. Benchmarks compare the generation loop with it."""

    def __init__(self, spec: EngineSpec, arguments: Callable[[EngineSpec], dict[str, Any]] | None = None) -> None:
        from vllm import LLM

        self._llm = LLM(**(arguments or engine_arguments)(spec))

    @property
    def version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    @property
    def dtype(self) -> str:
        return str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def generate(self, requests: Sequence[EngineRequest], *, text: bool, only_ids: bool = False) -> list[Any]:
        """Complete all ``requests`` in one call. Return vLLM's outputs in their order, for ``convert_outputs``.

        With ``text``, vLLM decodes the text token by token, as it does by default. With ``only_ids`` requests have no
        seeds and ask for no logprobs; only ``count_tokens`` takes such outputs.
        """
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        params = [_sampling_params(request, detokenize=text, only_ids=only_ids) for request in requests]
        adapters = [_lora_request(request.adapter) for request in requests]
        lora = adapters if any(adapters) else None
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False, lora_request=lora)
        return outputs

    def convert_outputs(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        """Return the outputs of one ``generate`` call, under the ids of its ``requests``."""
        return [
            replace(_from_vllm(output), request_id=request.request_id)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def count_tokens(self, outputs: Sequence[Any]) -> int:
        """Return the number of completion tokens in the outputs of one ``generate`` call."""
        return sum(len(output.outputs[0].token_ids) for output in outputs)


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Return the arguments of vLLM's EngineArgs for ``spec``. A setting that is None is left to vLLM."""
    settings = spec.settings
    not_arguments = {"batch_invariant", "kv_cache_space_gib", "core_process", "backend", "vllm"}
    chosen = {**settings.vllm, **settings.model_dump(exclude=not_arguments, exclude_none=True)}
    if settings.cudagraph_capture_sizes is not None:
        chosen["cudagraph_capture_sizes"] = list(settings.cudagraph_capture_sizes)
    if spec.kv_cache_bytes is not None:
        chosen["kv_cache_memory_bytes"] = spec.kv_cache_bytes
    # left to vLLM, it would be another number on each device
    chosen["max_num_seqs"] = settings.sequences
    if spec.sampling_mask:
        chosen["return_sampling_mask"] = True
    if spec.routed_experts:
        chosen["enable_return_routed_experts"] = True
    if (lora := spec.lora) is not None:
        chosen |= {"enable_lora": True, "max_loras": lora.slots, "max_cpu_loras": lora.held, "max_lora_rank": lora.rank}
    return {**chosen, "model": os.fspath(spec.model_path), "logprobs_mode": "processed_logprobs"}


def _lora_request(adapter: Adapter | None) -> Any:
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, adapter.number, os.fspath(adapter.path))


def _sampling_params(request: EngineRequest, *, detokenize: bool, only_ids: bool = False) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

    values = sampling_values(request)
    if repetition := values.get("repetition_detection"):
        values["repetition_detection"] = RepetitionDetectionParams(**repetition)
    return SamplingParams(
        **values,
        seed=None if only_ids else request.seed,
        logprobs=None if only_ids else request.top_logprobs,
        flat_logprobs=True,
        # vLLM looks for stop strings in the decoded text
        detokenize=detokenize or bool(request.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _from_partial(output: Any, partial: PartialCompletion) -> EngineOutput:
    completion = output.outputs[0]
    top_ids, top_logprobs = partial.top or (None, None)
    return EngineOutput(
        request_id=output.request_id,
        completion_ids=list(completion.token_ids),
        logprobs=partial.logprobs,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        sampling_mask=partial.sampling_mask,
        routed_experts=partial.routed_experts,
        **_finish(completion),
    )


def _from_vllm(output: Any) -> EngineOutput:
    completion = output.outputs[0]
    flat = completion.logprobs
    starts, ends = flat.start_indices, flat.end_indices
    has_top = ends[0] - starts[0] > 1 if starts else False
    return EngineOutput(
        request_id=output.request_id,
        completion_ids=list(completion.token_ids),
        # vLLM puts the sampled token first, then the most likely ones in order
        logprobs=[flat.logprobs[start] for start in starts],
        top_ids=[flat.token_ids[start + 1 : end] for start, end in zip(starts, ends, strict=True)] if has_top else None,
        top_logprobs=[flat.logprobs[start + 1 : end] for start, end in zip(starts, ends, strict=True)]
        if has_top
        else None,
        sampling_mask=None if completion.sampling_mask is None else token_sets(completion.sampling_mask.token_ids),
        routed_experts=completion.routed_experts,
        **_finish(completion),
    )


def _finish(completion: Any) -> dict[str, Any]:
    reason = completion.stop_reason
    if str(completion.finish_reason) in _GIVEN_UP:
        raise RuntimeError(f"the engine gave a request up, with finish reason {completion.finish_reason!s}")
    return {
        "finish_reason": str(completion.finish_reason),
        "stop_reason": None if reason is None else str(reason),
    }
