"""The memory of the draft model of speculative decoding: its weights, and its part of each token of the KV cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.engine_settings import EngineSettings
from tasks.errors import ConfigError
from tasks.node.weight_memory import weight_bytes_per_gpu
from tasks.plan.model_config import read_model_config
from tasks.plan.model_files import read_weights
from tasks.plan.model_shape import UnknownLayoutError, read_shape

_WITHOUT_MODEL = frozenset({"ngram", "ngram_gpu", "suffix"})
"""Methods of vLLM that guess from the tokens alone."""


@dataclass(frozen=True, kw_only=True)
class DraftMemory:
    """Bytes per GPU. ``unknown`` when there is a draft that cannot be measured here, such as one of the hub."""

    weight_bytes: int = 0
    kv_bytes_per_token: int = 0
    unknown: bool = False


def draft_memory(engine: EngineSettings) -> DraftMemory:
    """Return what the draft of ``engine`` takes: nothing without speculative decoding. It loads no weights."""
    settings = _settings(engine.vllm)
    if not settings or settings.get("method") in _WITHOUT_MODEL:
        return DraftMemory()
    name = settings.get("model")
    if not isinstance(name, str) or not Path(name).is_dir():
        return DraftMemory(unknown=True)
    size = settings.get("draft_tensor_parallel_size") or engine.tensor_parallel_size
    alone = engine.model_copy(update={"tensor_parallel_size": size, "pipeline_parallel_size": 1, "vllm": {}})
    try:
        config = read_model_config(Path(name))
        shape, tensors = read_shape(config, alone), read_weights(Path(name))
    except (UnknownLayoutError, ConfigError):
        return DraftMemory(unknown=True)
    heads = shape.kv_heads_per_gpu(size)
    return DraftMemory(
        weight_bytes=weight_bytes_per_gpu(tensors, shape, alone),
        kv_bytes_per_token=2 * shape.layers * heads * shape.head_dim * shape.dtype_bytes,
        unknown=not tensors,
    )


def _settings(passed_on: Mapping[str, Any]) -> dict[str, Any]:
    short = {"method": passed_on.get("spec_method"), "model": passed_on.get("spec_model")}
    return {key: value for key, value in short.items() if value is not None} | dict(
        passed_on.get("speculative_config") or {}
    )
