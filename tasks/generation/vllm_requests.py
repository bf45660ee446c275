"""What vLLM is told and what it answers: our settings and requests in its types, and its outputs in ours.

Functions import vllm when they need it, as in ``vllm_engine``.
"""

import os
from typing import Any

from tasks.generation.engine import EngineOutput, EngineRequest, EngineSpec, sampling_values
from tasks.generation.partial_completion import PartialCompletion
from tasks.generation.policy import Adapter
from tasks.generation.token_sets import token_sets

_GIVEN_UP = ("abort", "error")
"""Finish reasons of requests that an engine core in its own process ends when it is told to end, or cannot take one.
Such a part of a completion must not count as one."""


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Return the arguments of vLLM's EngineArgs for ``spec``. A setting that is None is left to vLLM."""
    settings = spec.settings
    not_arguments = {"batch_invariant", "kv_cache_space_gib", "core_process", "nodes_per_replica", "backend", "vllm"}
    chosen = {**settings.vllm, **settings.model_dump(exclude=not_arguments, exclude_none=True)}
    if settings.cudagraph_capture_sizes is not None:
        chosen["cudagraph_capture_sizes"] = list(settings.cudagraph_capture_sizes)
    if settings.nodes_per_replica > 1:
        chosen["distributed_executor_backend"] = "ray"
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


def lora_request(adapter: Adapter | None) -> Any:
    """Return vLLM's request for ``adapter``; None for the model alone."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, adapter.number, os.fspath(adapter.path))


def sampling_params(request: EngineRequest, *, detokenize: bool, only_ids: bool = False) -> Any:
    """Return vLLM's SamplingParams for ``request``; with ``only_ids`` without its seed and its logprobs."""
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


def output_of_partial(output: Any, partial: PartialCompletion) -> EngineOutput:
    """Return vLLM's ``output`` with what ``partial`` has collected of it step by step."""
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


def output_of(output: Any) -> EngineOutput:
    """Return vLLM's ``output``, which has everything itself."""
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
