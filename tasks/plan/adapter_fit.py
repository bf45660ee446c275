"""Checks that a LoRA adapter's tensors fit the base model, from the headers of both: no weights are read.

PEFT names a pair of tensors after the layer that it changes: base_model.model.LAYER.lora_A.weight of shape (rank,
inputs) and lora_B.weight of shape (outputs, rank), where the layer's own weight is (outputs, inputs).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.errors import ConfigError
from tasks.plan.adapter_config import AdapterConfig
from tasks.plan.safetensors_header import TensorInfo

_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<part>A|B)\.weight$")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_SAVE_AGAIN = "Train the adapter on this model, or give --model the one that it was trained on"


def check_fits(
    file: Path, tensors: Iterable[TensorInfo], config: AdapterConfig, base: Mapping[str, TensorInfo]
) -> None:
    """Raise ConfigError when a tensor of the adapter in ``file`` is of no layer of ``base``, or has another shape.

    ``base`` has the model's tensors by name; when it is empty, as for weights in another format, only the pairs are
    checked. A quantized layer has packed weights, whose shapes tell nothing.
    """
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in tensors:
        match = _NAME.match(tensor.name)
        if match is None:
            raise ConfigError(
                f"{file} holds the tensor {tensor.name}, and only pairs of lora_A and lora_B of linear layers can be "
                "used. Train the adapter without embeddings and other modules, or merge it into the model"
            )
        layers.setdefault(match["layer"], {})[match["part"]] = tensor.shape
    if not layers:
        raise ConfigError(f"{file} holds no tensors. Save the adapter again")
    for layer, parts in layers.items():
        if parts.keys() != {"A", "B"}:
            raise ConfigError(f"{file} holds lora_{'B' if 'B' in parts else 'A'} of {layer} alone. Save it again")
        _check_layer(file, layer, parts["A"], parts["B"], config.rank_of(layer), base)


def _check_layer(
    file: Path, layer: str, a: tuple[int, ...], b: tuple[int, ...], rank: int, base: Mapping[str, TensorInfo]
) -> None:
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise ConfigError(
            f"{file} has {layer} with lora_A {_by(a)} and lora_B {_by(b)}, which are not of the rank {rank} in "
            "adapter_config.json. Copy both files of the same adapter"
        )
    if not base:
        return
    weight = base.get(f"{layer}.weight")
    if weight is None:
        # packed layers of a quantized model, and experts that one tensor holds, have other names
        if any(name.startswith(f"{layer}.") for name in base) or ".experts" in layer:
            return
        raise ConfigError(f"{file} changes {layer}, which the model does not have. {_SAVE_AGAIN}")
    if weight.dtype in _FLOATS and weight.shape != (b[0], a[1]):
        raise ConfigError(
            f"{file} changes {layer} as if it were {b[0]} x {a[1]}; it is {_by(weight.shape)}. {_SAVE_AGAIN}"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
