"""Reads a model's config.json, and refuses one that no engine can load or from which no memory can be planned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.load import short_repr
from profiles.regular_files import parse_json, read_regular
from tasks.errors import ConfigError
from tasks.plan.model_shape import KNOWN_FAMILIES

_JSON_BYTES = 256 << 20
"""Far more than an index of weights has."""

_MOST = {
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5,
    "head_dim": 10**5,
    "vocab_size": 10**8,
    "max_position_embeddings": 10**9,
}
"""The numbers that are read, each with a bound far above those of any model."""

_TABLES = ("quantization_config", "rope_parameters", "rope_scaling")


def read_model_config(path: Path) -> dict[str, Any]:
    """Return the config.json of the model directory ``path``. Raises ConfigError when it is missing or of no use.

    As vLLM does, it infers the architecture from model_type where none is named. A field that is absent or null has
    its family's default. Fields are checked only in families whose layout is known: others give them other types.
    """
    file = path / "config.json"
    config = read_model_object(file, missing="the engine needs it: download the model's config.json")
    if wrong := _unnamed(config) or (config.get("model_type") in KNOWN_FAMILIES and _misfit(config)):
        raise ConfigError(f"{file} {wrong}. Download the file again")
    return config


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a model's config.json that is about text, if it has such a part."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def read_model_json(path: Path) -> Any:
    """Return the JSON value in a file of a model. Raises OSError and ValueError."""
    return parse_json(read_regular(path, _JSON_BYTES).decode("utf-8"))


def read_model_object(path: Path, *, missing: str) -> dict[str, Any]:
    """Return the JSON object in a file of a model. Raises ConfigError, with the words ``missing`` if there is none."""
    try:
        value = read_model_json(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; {missing}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Download the file again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {type(value).__name__}, not a JSON object. Download the file again")
    return value


def _unnamed(config: Mapping[str, Any]) -> str:
    """Why ``config`` does not say which model it is of; "" when it does."""
    family, names = config.get("model_type"), config.get("architectures")
    if family is not None and not isinstance(family, str):
        return f"has model_type {short_repr(family)}; it must be a name such as qwen2"
    if names is not None and not _is_list_of_names(names):
        return f'has architectures {short_repr(names)}; it must be a list of names such as ["Qwen2ForCausalLM"]'
    return "" if family or names else "names neither model_type nor architectures, so no engine can load the model"


def _misfit(config: Mapping[str, Any]) -> str:
    """What is wrong in the fields of ``config``; "" when they are all right."""
    given = {name: value for name, value in config.items() if value is not None}
    for name, most in _MOST.items():
        value = given.get(name, 1)
        if type(value) is not int or not 1 <= value <= most:
            return f"has {name} {short_repr(value)}; it must be a whole number from 1 to {most:,}"
    for name in _TABLES:
        if not isinstance(given.get(name, {}), dict):
            return f"has {name} {short_repr(given[name])}; it must be an object"
    if not _is_list_of_names(given.get("layer_types", [])):
        return f"has layer_types {short_repr(given['layer_types'])}; it must be a list of names"
    heads, hidden = given.get("num_attention_heads"), given.get("hidden_size")
    if heads is None:
        return ""
    if heads % (kv_heads := given.get("num_key_value_heads", heads)):
        return f"has num_attention_heads {heads}, which is no multiple of num_key_value_heads {kv_heads}"
    if "head_dim" not in given and hidden is not None and hidden < heads:
        return f"has hidden_size {hidden}, which leaves nothing for each of num_attention_heads {heads}"
    return ""


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
