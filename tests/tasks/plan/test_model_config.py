"""A config.json is refused where no engine could load it, and where no memory can be planned from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError
from tasks.plan.model_config import read_model_config

QWEN = {"model_type": "qwen2", "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def read(folder: Path, config: Any) -> dict[str, Any]:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return read_model_config(folder)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "names neither model_type nor architectures"),
        ({"architectures": []}, "names neither"),
        ({"architectures": "Qwen2ForCausalLM"}, "architectures 'Qwen2ForCausalLM'; it must be a list of names"),
        ({"model_type": ["qwen2"]}, "model_type .*; it must be a name"),
        ([], "holds list, not a JSON object"),
        (QWEN | {"num_attention_heads": 0}, "num_attention_heads 0; it must be a whole number from 1 to 100,000"),
        (QWEN | {"hidden_size": -1}, "hidden_size -1; it must be a whole number from 1 to"),
        (QWEN | {"vocab_size": "629"}, "vocab_size '629'; it must be a whole number"),
        (QWEN | {"vocab_size": 629.0}, "vocab_size 629.0; it must be a whole number"),
        (QWEN | {"num_hidden_layers": 10**12}, "num_hidden_layers 1000000000000; it must be .* to 10,000"),
        (QWEN | {"head_dim": [32]}, r"head_dim \[32\]; it must be a whole number"),
        (QWEN | {"max_position_embeddings": True}, "max_position_embeddings True; it must be a whole number"),
        (json.dumps(QWEN)[:-1] + ', "head_dim": 1e999}', "head_dim inf; it must be a whole number"),
        (QWEN | {"num_key_value_heads": 3}, "num_attention_heads 4, which is no multiple of num_key_value_heads 3"),
        (QWEN | {"hidden_size": 3}, "hidden_size 3, which leaves nothing for each of num_attention_heads 4"),
        (QWEN | {"rope_parameters": [1]}, r"rope_parameters \[1\]; it must be an object"),
        (QWEN | {"quantization_config": "fp8"}, "quantization_config 'fp8'; it must be an object"),
        (QWEN | {"layer_types": [1, "x"]}, "layer_types .*; it must be a list of names"),
    ],
)
def test_a_config_of_no_use_is_refused(config: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"config.json (has )?{told}"):
        read(tmp_path, config)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"architectures": ["LlamaForCausalLM"]},
        QWEN | {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None, "layer_types": None},
        QWEN | {"hidden_size": 3, "head_dim": 32},
        {"model_type": "nemotron-nas", "num_key_value_heads": None, "intermediate_size": [1, 2], "head_dim": 0},
    ],
)
def test_what_other_models_leave_out_or_write_otherwise_is_taken(config: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, config) == config
