"""Which fields of vLLM's ``EngineArgs`` a profile's table ``[engine.vllm]`` passes on, and why not the others.

What a setting or an option of ours decides is refused, so that each thing is said in one place. So is what breaks a
promise: that a run's id says which model made it, that its prompts are its arms', that engines die with the run, that
failures and throughput are told.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from profiles.vllm_arguments import installed_arguments, installed_version

RETIRED_ENGINE_KEYS = {
    "swap_space": "vLLM has no CPU swap any more: preempted sequences are recomputed. Remove the key; "
    "to offload KV cache to CPU memory set kv_offloading_size in [engine.vllm]",
    "use_v2_block_manager": "the block manager is not selectable any more. Remove the key",
    "num_scheduler_steps": "multi-step scheduling was replaced by async scheduling, which is on by default. Remove it",
    "max_seq_len_to_capture": "use max_cudagraph_capture_size, which counts sequences, not tokens",
    "device": "vLLM takes the device from the installed build: install the cpu or the gpu extra",
}

_MODEL = "the model's directory decides it, whose files the run's id is made of. Give --model"
_TOKENIZER = "prompts and texts are made with the tokenizer of the model's directory. Put the right one there"
_LORA = "adapters are checked and made part of the run by --adapter. Give that option"
_SAMPLING = "how completions are sampled is the run's. Give --temperature, --top-p and the other options for sampling"
_ONE_NODE = (
    "an engine's processes die with the run, which gives them their GPUs. Use tensor_parallel_size and "
    "pipeline_parallel_size, and nodes_per_replica with --nodes for an engine over several nodes"
)
_REPLICAS = (
    "one engine is one scheduler here, and vLLM's own class for one process refuses more. Use replicas = N for engines "
    "side by side; experts are spread with tensor_parallel_size = N and enable_expert_parallel = true"
)
_TEXT = "a run generates text. Leave it out"
_NO_SERVER = "there is no server here. Leave it out"
_LOG = "failures and the kind of a start are read from the engine's log. Leave it out"
_COUNTED = "telemetry and report are made of these figures. Leave it out"

REFUSED = {
    **dict.fromkeys(("model", "model_weights", "revision", "code_revision", "hf_config_path"), _MODEL),
    **dict.fromkeys(("tokenizer", "tokenizer_mode", "tokenizer_revision", "skip_tokenizer_init"), _TOKENIZER),
    "download_dir": "models of the hub are kept below HF_HOME. Set that variable",
    "hf_token": "a secret must not be in a run's files. Set the variable HF_TOKEN",
    "seed": "each request has a seed of its own, made of the run's. Give --seed",
    "logprobs_mode": "trainers need the logprobs of the distribution that was sampled. It is always processed_logprobs",
    "max_logprobs": "it follows from what is stored. Give --top-logprobs",
    "return_sampling_mask": "give --sampling-mask, which also stores it",
    "enable_return_routed_experts": "give --routed-experts, which also stores them",
    "aux_output_config": "give --sampling-mask or --routed-experts, which also store what it returns",
    **dict.fromkeys(("generation_config", "override_generation_config"), _SAMPLING),
    **dict.fromkeys(
        ("enable_lora", "max_loras", "max_lora_rank", "max_cpu_loras", "lora_target_modules", "default_mm_loras"), _LORA
    ),
    **dict.fromkeys(("runner", "convert", "pooler_config"), _TEXT),
    **dict.fromkeys(
        ("served_model_name", "max_num_queued_reqs", "max_num_queued_tokens", "tokens_only", "io_processor_plugin"),
        _NO_SERVER,
    ),
    **dict.fromkeys(("disable_log_stats", "cudagraph_metrics"), _COUNTED),
    **dict.fromkeys(("log_level", "log_config_file", "logging_config"), _LOG),
    **dict.fromkeys(("distributed_executor_backend", "nnodes", "node_rank", "master_addr", "master_port"), _ONE_NODE),
    "prefill_context_parallel_size": "it changes the number of an engine's GPUs, which are tensor_parallel_size x "
    "pipeline_parallel_size. Use these",
    "vllm": "it is the table itself. Give its fields one by one, such as kv_cache_dtype",
    "max_num_active_seqs": "max_num_seqs says how many run at once. Put it into [engine]",
    "max_num_scheduled_tokens": "max_num_batched_tokens says how many a step has. Put it into [engine]",
    "worker_extension_cls": "a worker loads further checkpoints with an extension of ours. Leave it out",
    "device_ids": "each engine gets GPUs of its own. Set CUDA_VISIBLE_DEVICES to those that the run may use",
}
"""Why a field is not passed on, and what to give instead."""
_REFUSED_PREFIXES = {"data_parallel_": _REPLICAS, "enable_elastic_ep": _REPLICAS, "elastic_ep_": _REPLICAS}

_NESTED = {
    ("compilation_config", "cudagraph_capture_sizes"): "cudagraph_capture_sizes",
    ("compilation_config", "max_cudagraph_capture_size"): "max_cudagraph_capture_size",
    ("attention_config", "backend"): "attention_backend",
}
"""Settings of ours that vLLM also takes in a table; it refuses both at once, and the one is often chosen."""


def check_keys(table: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise ValueError, which tells every key or value of an ``[engine.vllm]`` that cannot be passed on.

    ``own`` are the names of the engine settings that are ours. Names and types are those of the installed vLLM; where
    none is installed, as on a machine that only plans, the node that runs checks them.
    """
    told = []
    for key, value in table.items():
        try:
            _check_key(key, value, own)
        except ValueError as error:
            told.append(str(error))
    if told:
        raise ValueError("; ".join(told))


def _check_key(key: str, value: Any, own: Iterable[str]) -> None:
    if key in RETIRED_ENGINE_KEYS:
        raise ValueError(f"{key} is no longer an engine argument: {RETIRED_ENGINE_KEYS[key]}")
    if (why := why_refused(key)) is not None:
        raise ValueError(f"{key} is not passed on: {why}")
    if key in own:
        raise ValueError(f"{key} is a setting of its own. Put it into [engine]")
    for inner in value if isinstance(value, dict) else ():
        if (setting := _NESTED.get((key, inner))) is not None:
            raise ValueError(f"{inner} in {key} is a setting of its own. Put {setting} into [engine]")
    _check_plain(key, value)
    _check_installed(key, value, own)


def why_refused(key: str) -> str | None:
    """Return why a field of EngineArgs is not passed on, and what to give instead; None for one that is."""
    return REFUSED.get(key) or next((why for start, why in _REFUSED_PREFIXES.items() if key.startswith(start)), None)


def is_vllm_key(key: str) -> bool:
    """Return whether ``key`` is a field of the installed vLLM's EngineArgs."""
    return key in (installed_arguments() or ())


def nearest_keys(key: str, own: Iterable[str] = ()) -> list[str]:
    """Return up to three names like ``key``, of fields that are passed on and of the settings in ``own``."""
    known = [name for name in installed_arguments() or () if why_refused(name) is None]
    return difflib.get_close_matches(key, sorted({*known, *own}), n=3, cutoff=0.6)


def _check_installed(key: str, value: Any, own: Iterable[str]) -> None:
    arguments = installed_arguments()
    if arguments is None:
        return
    if key not in arguments:
        near = nearest_keys(key, own)
        hint = f"Did you mean {' or '.join(near)}?" if near else "vLLM's documentation of EngineArgs lists them"
        raise ValueError(f"{key} is no field of EngineArgs in vLLM {installed_version()}. {hint}")
    argument = arguments[key]
    if not argument.takes(value):
        raise ValueError(f"{key} is {value!r}; vLLM {installed_version()} takes {argument}")


def _check_plain(key: str, value: Any) -> None:
    """Raise ValueError for a value that JSON, and so a run's files, cannot hold: a date, NaN."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_plain(key, inner)
    elif not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{key} holds {value!r}. Give numbers, texts, true or false, lists or tables of them")
