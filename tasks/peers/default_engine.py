"""vLLM at its own defaults for the device: what a contestant tells it all the same."""

import os
from collections.abc import Mapping
from typing import Any

from profiles.schema import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.generation.vllm_engine import engine_environment
from tasks.node.core_process import CORE_PROCESS_VARIABLE


def default_arguments(spec: EngineSpec, *, seeded: bool) -> dict[str, Any]:
    """Return the arguments that say which model runs in how much memory; all else is vLLM's own for the device.

    ``seeded`` says whether requests have seeds. vLLM's defaults by device and caller are in its
    ``EngineArgs.get_batch_defaults``: on a CPU 256 sequences for an LLM and 128 for a server.
    """
    settings = spec.settings
    stated = {
        *("tensor_parallel_size", "dtype", "max_model_len", "gpu_memory_utilization"),
        *("quantization", "load_format", "trust_remote_code"),
        *(("pipeline_parallel_size",) if settings.pipeline_parallel_size > 1 else ()),
    }
    # what the user says to vLLM by name is said to all
    chosen = {**settings.vllm, **settings.model_dump(include=stated, exclude_none=True)}
    if settings.kv_cache_space_gib is not None:
        # compiling takes a minute on a CPU, so that a profile says whether it is wanted
        chosen["enforce_eager"] = settings.enforce_eager
        if seeded:
            # vLLM's CPU backend crashes on a seeded request whose prompt is prefilled in chunks
            chosen["enable_chunked_prefill"] = False
    model = os.fspath(spec.model_path)
    # a server would take settings for sampling that a request leaves out from the model's own file
    return {**chosen, "model": model, "logprobs_mode": "processed_logprobs", "generation_config": "vllm"}


def default_environment(settings: EngineSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return ``engine_environment``, but vLLM decides itself whether the engine core has a process of its own."""
    ours = CORE_PROCESS_VARIABLE
    environment = engine_environment(settings, inherited, on_gpu=False)
    return {name: value for name, value in environment.items() if name != ours or name in inherited}
