"""How many parameters a token is multiplied with, counted in the weight files or by the shape."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import DEMO_MODEL
from tasks.node.model_parameters import active_parameters, uses_fp8
from tests.support.safetensors_file import write_safetensors

DENSE = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
}
EMBEDDINGS, HEAD, NORM = (
    ("model.embed_tokens.weight", (32, 8)),
    ("lm_head.weight", (32, 8)),
    ("model.norm.weight", (8,)),
)
ROUTER = ("model.layers.0.mlp.gate.weight", (4, 8))
EXPERTS = tuple((f"model.layers.0.mlp.experts.{number}.up_proj.weight", (16, 8)) for number in range(4))
LAYER = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 16 * 8 + 2 * 8
QUANTIZED = {**DENSE, "quantization_config": {"quant_method": "awq"}}
MIXTURE = {**DENSE, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("config", "tensors", "expected"),
    [
        # the table of input embeddings is looked up
        (DENSE, (EMBEDDINGS, HEAD, NORM), 32 * 8 + 8),
        # it is the output layer as well
        ({**DENSE, "tie_word_embeddings": True}, (EMBEDDINGS, NORM), 32 * 8 + 8),
        ({**DENSE, "tie_word_embeddings": True}, (EMBEDDINGS, HEAD, NORM), 32 * 8 + 8),
        (DENSE, (EMBEDDINGS, NORM), 32 * 8 + 8),
        # two of four experts
        (MIXTURE, (EMBEDDINGS, HEAD, ROUTER, *EXPERTS), 32 * 8 + 4 * 8 + 2 * 16 * 8),
        ({**MIXTURE, "num_experts_per_tok": None}, (EMBEDDINGS, HEAD, ROUTER, *EXPERTS), None),
        # packed numbers are not counted, the shape is
        (QUANTIZED, (("model.layers.0.mlp.up_proj.qweight", (1, 2)),), 2 * LAYER + 32 * 8 + 8),
        ({**MIXTURE, "quantization_config": {"quant_method": "awq"}}, EXPERTS, None),
        ({**QUANTIZED, "model_type": "unheard_of"}, (NORM,), None),
        # a layout that is not known, whose tensors are
        ({**DENSE, "model_type": "unheard_of"}, (EMBEDDINGS, HEAD, NORM), 32 * 8 + 8),
    ],
)
def test_the_parameters_of_a_token_are_counted(
    config: dict[str, Any], tensors: tuple[tuple[str, tuple[int, ...]], ...], expected: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "model.safetensors", dict(tensors))
    assert active_parameters(tmp_path, EngineSettings()) == expected


def test_the_demo_model_has_what_its_guide_says() -> None:
    found = active_parameters(DEMO_MODEL, EngineSettings())
    assert found is not None
    assert math.isclose(found, 0.87e6, rel_tol=0.01)


def compressed(activations: object) -> dict[str, Any]:
    group = {"weights": {"type": "float", "num_bits": 8}, "input_activations": activations}
    return {**DENSE, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}


@pytest.mark.parametrize(
    ("config", "quantization", "fp8"),
    [
        (DENSE, None, False),
        (DENSE, "fp8", True),
        (QUANTIZED, None, False),
        ({**DENSE, "quantization_config": {"quant_method": "fp8"}}, None, True),
        (DENSE, "fp8_per_block", True),
        ({**DENSE, "model_type": "unheard_of", "quantization_config": "fp8"}, None, False),
        (compressed({"type": "float", "num_bits": 8}), None, True),
        (compressed({"type": "int", "num_bits": 8}), None, False),
        # FP8 weights alone
        (compressed(None), None, False),
        (compressed("float"), None, False),
        ({**DENSE, "quantization_config": {"quant_method": "compressed-tensors"}}, None, False),
        ({**DENSE, "quantization_config": {"quant_method": "modelopt", "quant_algo": "fp8"}}, None, True),
        ({**DENSE, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, None, False),
    ],
)
def test_fp8_is_told_by_the_settings_or_the_model(
    config: dict[str, Any], quantization: str | None, fp8: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert uses_fp8(tmp_path, EngineSettings(quantization=quantization)) == fp8
