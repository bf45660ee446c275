"""What the fields of a profile's ``[engine.vllm]`` do to memory: those that the memory plan counts, and the others.

A field that moves memory in a way that is not known here is named in the plan, with how far off the plan may be.
"""

from collections.abc import Iterator

from profiles.engine_settings import EngineSettings
from tasks.plan.model_shape import ModelShape
from tasks.units import GIB

_KV_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1}
"""Bytes of an element of the KV cache by kv_cache_dtype; other formats store scales beside it."""

_COUNTED = frozenset(
    {
        *("block_size", "kv_cache_memory_bytes", "num_gpu_blocks_override", "cpu_offload_gb", "kv_offloading_size"),
        *("enable_expert_parallel", "speculative_config", "spec_method", "spec_model", "spec_tokens"),
    }
)
_TAKES_NONE = frozenset(
    {
        *("async_scheduling", "scheduling_policy", "stream_interval", "prefill_schedule_interval", "watermark"),
        *("long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "scheduler_reserve_full_isl"),
        *("prefix_caching_hash_algo", "prefix_cache_retention_interval", "kv_offloading_backend", "use_fp64_gumbel"),
        *("safetensors_load_strategy", "safetensors_prefetch_num_threads", "safetensors_prefetch_block_size"),
        *("use_tqdm_on_load", "model_loader_extra_config", "ignore_patterns", "config_format", "cpu_offload_params"),
        *("numa_bind", "numa_bind_nodes", "numa_bind_cpus", "distributed_timeout_seconds", "kv_cache_metrics"),
        *("enable_ep_weight_filter", "expert_placement_strategy", "kv_cache_metrics_sample", "enable_mfu_metrics"),
        *("otlp_traces_endpoint", "collect_detailed_traces", "show_hidden_metrics_for_version"),
        *("enable_logging_iteration_details", "per_request_spec_decode_metrics", "renderer_num_workers"),
    }
)
"""Fields that take no GPU memory worth a line."""

_LAYOUT = "weights and KV cache are those of config.json without it"
_MORE_ACTIVATIONS = "activations may take up to twice the reserve"
_OFFLOADED = "weights that it moves to the host count as on the GPU"
_REDUNDANT = "each redundant expert adds its weights"
_HOW_FAR = {
    "kv_cache_dtype": "the KV cache counts in the dtype of the engine and may hold up to four times as many tokens",
    "kv_cache_dtype_skip_layers": "all layers count in kv_cache_dtype: the KV cache may hold half as many tokens",
    "quantization_config": "weights count as in the files, which may be up to four times what they take",
    "hf_overrides": _LAYOUT,
    "model_class_overrides": _LAYOUT,
    "model_impl": "activations of another implementation may take more than the reserve",
    "enable_dbo": _MORE_ACTIVATIONS,
    "ubatch_size": _MORE_ACTIVATIONS,
    "enable_eplb": _REDUNDANT,
    "eplb_config": _REDUNDANT,
    **dict.fromkeys(("offload_backend", "offload_group_size", "offload_num_in_group", "offload_params"), _OFFLOADED),
    "compilation_config": "graphs count as vLLM captures them by itself, at 8 MiB each",
    "kv_transfer_config": "a connector's buffers, which its own settings size, come on top",
    "speculative_config": "the weights of the draft come on top, and its layers make each token of the KV cache larger",
}


def kv_element_bytes(shape: ModelShape, engine: EngineSettings) -> int:
    """Return the bytes of an element of the KV cache."""
    return _KV_ELEMENT_BYTES.get(engine.vllm.get("kv_cache_dtype", "auto"), shape.dtype_bytes)


def stated_kv_bytes(engine: EngineSettings) -> int | None:
    """Return the size of the KV cache per GPU if it is stated: vLLM then asks for no gpu_memory_utilization."""
    return engine.vllm.get("kv_cache_memory_bytes")


def offloaded_weights(engine: EngineSettings) -> int:
    """Return the bytes of weights that each GPU leaves in the host's memory."""
    return int(engine.vllm.get("cpu_offload_gb", 0) * GIB)


def host_bytes(engine: EngineSettings) -> int:
    """Return the bytes of host memory that one engine takes for what it offloads."""
    # vLLM's kv_offloading_size is of all GPUs of an engine together, its cpu_offload_gb of each
    return int(engine.vllm.get("kv_offloading_size", 0) * GIB) + engine.gpus * offloaded_weights(engine)


def not_counted(engine: EngineSettings, *, draft_unknown: bool, quantized_files: bool) -> Iterator[str]:
    """Yield what the memory plan does not count, and how far off it may be; a sentence each.

    ``draft_unknown`` says whether the model of speculative_config cannot be measured, and ``quantized_files`` whether
    the weight files hold quantized numbers.
    """
    if engine.quantization is not None and not quantized_files and not quantizes_to_fp8(engine):
        yield f"not counted: quantization {engine.quantization}; {_HOW_FAR['quantization_config']}"
    for key, value in engine.vllm.items():
        if key == "kv_cache_dtype" and (value == "auto" or value in _KV_ELEMENT_BYTES):
            continue
        if key == "decode_context_parallel_size":
            yield f"not counted: {key}; the KV cache may hold up to {value} times as many tokens"
        elif key in ("speculative_config", "spec_model") and draft_unknown:
            yield f"not counted: {key}; {_HOW_FAR['speculative_config']}"
        elif key not in _COUNTED | _TAKES_NONE:
            yield f"not counted: {key}; {_HOW_FAR.get(key, 'vLLM measures what it takes when it starts')}"


def quantizes_to_fp8(engine: EngineSettings) -> bool:
    """Return whether vLLM makes FP8 of a checkpoint that is not quantized, while it loads (its online methods)."""
    return engine.quantization in ("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8")
