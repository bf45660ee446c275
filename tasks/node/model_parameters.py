"""Counts the parameters that a token is multiplied with, for the arithmetic that a run needs.

They are counted in the weight files; those of a quantized model, whose files hold packed numbers, by the shape in its
config.json. The table of input embeddings is left out, since a token looks its row up, unless it is the output layer as
well. Of a mixture of experts each token uses a few, whose number config.json tells.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.engine_settings import EngineSettings
from tasks.node.weight_memory import dense_tensors
from tasks.plan.model_config import read_model_config
from tasks.plan.model_files import read_weights
from tasks.plan.model_shape import EXPERT_COUNTS, UnknownLayoutError, read_shape

_FP8_METHODS = ("fp8", "fbgemm_fp8", "deepseek_v4_fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel")
"""vLLM's names for methods whose products are in FP8."""


def active_parameters(model: Path, engine: EngineSettings) -> int | None:
    """Return the parameters that one token is multiplied with; None when the files do not tell. Raises ConfigError."""
    config = read_model_config(model)
    share = _expert_share(config)
    if share is None:
        return None
    tensors = () if config.get("quantization_config") else read_weights(model)
    if not tensors:
        try:
            shape = read_shape({**config, "quantization_config": None}, engine)
        except UnknownLayoutError:
            return None
        if not shape.is_dense:
            return None
        tensors = tuple(dense_tensors(shape))
    names = [tensor.name for tensor in tensors]
    tied = bool(config.get("tie_word_embeddings")) or not any(name.startswith("lm_head") for name in names)
    left_out = "lm_head" if tied else "embed_tokens"
    return sum(
        round(tensor.elements * (share if ".experts." in tensor.name else 1))
        for tensor in tensors
        if left_out not in tensor.name
    )


def uses_fp8(model: Path, engine: EngineSettings) -> bool:
    """Return whether the products of weights and activations are in FP8. Raises ConfigError.

    Two methods say it in a field, by vLLM's classes of them: ModelOpt in ``quant_algo``, and compressed-tensors in the
    type and bits of its groups' activations, as its weights may be FP8 alone.
    """
    config = read_model_config(model).get("quantization_config")
    quantization = config if isinstance(config, dict) else {}
    method = engine.quantization or quantization.get("quant_method")
    if method == "compressed-tensors":
        groups = quantization.get("config_groups")
        each = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
        given = [group["input_activations"] for group in each if isinstance(group.get("input_activations"), dict)]
        return any((found.get("type"), found.get("num_bits")) == ("float", 8) for found in given)
    if method == "modelopt":
        return str(quantization.get("quant_algo", "")).upper().startswith("FP8")
    return method in _FP8_METHODS


def _expert_share(config: Mapping[str, Any]) -> float | None:
    """The share of a layer's experts that a token uses: 1 without experts, None when their number is unclear."""
    experts = next((config[name] for name in EXPERT_COUNTS if config.get(name)), None)
    if experts is None:
        return 1.0
    used = config.get("num_experts_per_tok")
    return used / experts if isinstance(used, int) and isinstance(experts, int) else None
