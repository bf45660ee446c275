"""vLLM at its own defaults for the device: what a contestant tells it all the same."""

import os
from collections.abc import Mapping
from typing import Any

from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.generation.engine_environment import METHOD_VARIABLE, engine_environment
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


def feature_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Return the default arguments, but as many sequences and tokens per step as a profile states for the pipeline.

    What then differs between the two is the pipeline alone. A chosen batch is not stated: both may fill vLLM's default.
    """
    stated = {"max_num_seqs", "max_num_batched_tokens"}
    return default_arguments(spec, seeded=True) | spec.settings.model_dump(include=stated, exclude_none=True)


def default_environment(settings: EngineSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return ``engine_environment``, but vLLM decides itself in which processes an engine runs and how they start."""
    ours = {CORE_PROCESS_VARIABLE, METHOD_VARIABLE}
    environment = engine_environment(settings, inherited, on_gpu=False)
    return {name: value for name, value in environment.items() if name not in ours or name in inherited}
