"""Read the shape of a decoder from config.json, in which fields have Hugging Face's names.

Only layouts whose KV cache size is certain are read: full attention in every layer, one KV page size. Any other layout
raises UnknownLayoutError, because users would believe a memory plan that is a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profiles.engine_settings import EngineSettings

DENSE_FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "granite", "olmo2", "starcoder2", "smollm3", "stablelm"}
)
MOE_FAMILIES = frozenset({"mixtral", "qwen2_moe", "qwen3_moe", "olmoe"})
KNOWN_FAMILIES = DENSE_FAMILIES | MOE_FAMILIES

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Hugging Face's names for the number of experts of a layer."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class UnknownLayoutError(Exception):
    """The memory layout of the model is not known here; the message says what is unusual."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder. ``dtype_bytes`` are the bytes of an element in the engine; ``longest`` is in tokens."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied_embeddings: bool
    qkv_bias: bool
    quantized: bool
    """Whether the weight files hold quantized numbers."""
    experts: int
    """Experts of a layer, 0 of a dense model."""
    longest: int | None
    dtype_bytes: int

    @property
    def is_dense(self) -> bool:
        return self.family in DENSE_FAMILIES

    def kv_heads_per_gpu(self, tensor_parallel_size: int) -> int:
        """Return the KV heads on each GPU. vLLM splits them, and repeats them if there are fewer heads than GPUs."""
        return max(1, self.kv_heads // tensor_parallel_size)

    def stages(self, count: int) -> list[int]:
        """Return the layers of each of ``count`` pipeline stages: by vLLM (distributed/utils.py, get_pp_indices)."""
        layers = [self.layers // count] * count
        for index in range(self.layers % count):
            layers[-2 - index] += 1
        return layers

    def allowed_parallel_sizes(self, limit: int) -> list[int]:
        """Return the tensor-parallel sizes up to ``limit`` that split this model's heads evenly, as vLLM requires."""
        return [
            size
            for size in range(1, limit + 1)
            if self.heads % size == 0 and (self.kv_heads % size == 0 or size % self.kv_heads == 0)
        ]

    def problems(self, engine: EngineSettings) -> tuple[str, ...]:
        """Return why ``engine`` cannot run this model on any node; a sentence each."""
        problems = []
        allowed = self.allowed_parallel_sizes(max(8, engine.tensor_parallel_size))
        if engine.tensor_parallel_size not in allowed:
            problems.append(
                f"tensor_parallel_size is {engine.tensor_parallel_size}, but the model has {self.heads} attention and "
                f"{self.kv_heads} KV heads. Use one of {', '.join(map(str, allowed))}"
            )
        if engine.pipeline_parallel_size > self.layers:
            problems.append(
                f"pipeline_parallel_size is {engine.pipeline_parallel_size}, but the model has {self.layers} layers. "
                "Lower it"
            )
        if engine.vllm.get("enable_expert_parallel") and not self.experts:
            problems.append("enable_expert_parallel is true, but the model has no experts. Leave it out")
        if self.longest is not None and engine.max_model_len > self.longest:
            problems.append(
                f"max_model_len is {engine.max_model_len}, but the model knows {self.longest} positions "
                f"(max_position_embeddings). Lower max_model_len to {self.longest}"
            )
        return tuple(problems)


def read_shape(config: Mapping[str, Any], engine: EngineSettings) -> ModelShape:
    """Return the shape of the model with this config.json. Raises UnknownLayoutError."""
    family = str(config.get("model_type"))
    if family not in KNOWN_FAMILIES:
        raise UnknownLayoutError(f"model_type {family!r} is not a known layout")
    _refuse_unusual_attention(config)
    quantization = config.get("quantization_config") or {}
    if quantization.get("kv_cache_scheme") or quantization.get("kv_cache_quant_algo"):
        raise UnknownLayoutError("the checkpoint has its own KV-cache quantization")
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return ModelShape(
            family=family,
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config.get("intermediate_size") or 4 * hidden),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab=int(config["vocab_size"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", family == "gemma")),
            qkv_bias=family in ("qwen2", "qwen2_moe") or bool(config.get("attention_bias")),
            quantized=bool(quantization),
            experts=next((int(config[name]) for name in EXPERT_COUNTS if config.get(name)), 0),
            longest=None if _is_stretched(config) else config.get("max_position_embeddings"),
            dtype_bytes=_dtype_bytes(config, engine),
        )
    except KeyError as error:
        raise UnknownLayoutError(f"config.json has no {error}") from error


def _refuse_unusual_attention(config: Mapping[str, Any]) -> None:
    if config.get("kv_lora_rank"):
        raise UnknownLayoutError("the model uses multi-head latent attention (kv_lora_rank)")
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    # Qwen2 lists sliding layers only when use_sliding_window is on; older configs have only the switch
    if kinds:
        raise UnknownLayoutError(f"the model mixes layer types ({', '.join(sorted(kinds))})")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise UnknownLayoutError(f"the model uses sliding-window attention (window {config['sliding_window']})")


def _is_stretched(config: Mapping[str, Any]) -> bool:
    """Return whether rotary positions are scaled: max_position_embeddings is then not the longest context.

    transformers 5 writes ``rope_parameters``: one table, or one for each kind of layer.
    """
    rope = config.get("rope_parameters") or {}
    tables = [rope, *(table for table in rope.values() if isinstance(table, Mapping))]
    types = {table.get("rope_type") or table.get("type") for table in tables}
    return bool(config.get("rope_scaling")) or not types <= {None, "default"}


def _dtype_bytes(config: Mapping[str, Any], engine: EngineSettings) -> int:
    if engine.dtype != "auto":
        return DTYPE_BYTES[engine.dtype]
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    # vLLM loads a float32 checkpoint as bfloat16 under dtype "auto"
    return 2 if stored == "float32" else DTYPE_BYTES.get(stored, 2)
