"""LoRA adapters of the demo model as PEFT saves them, made here, and the model into which one is merged."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.load import DEMO_MODEL

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]

TARGETS = ("q_proj", "v_proj", "gate_proj", "down_proj")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "bias": "none"}


def write_adapter(folder: Path, *, seed: int = 0, rank: int = 4, changes: Mapping[str, object] | None = None) -> Path:
    """Write an adapter of random weights that changes most completions. ``changes`` are to its configuration."""
    folder.mkdir(parents=True)
    draw, tensors = np.random.default_rng(seed), Arrays()
    for name, weight in read_tensors(DEMO_MODEL / "model.safetensors").items():
        if name.removesuffix(".weight").endswith(TARGETS):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = draw.normal(0, 0.05, (rank, weight.shape[1])).astype(np.float32)
            tensors[f"{layer}.lora_B.weight"] = draw.normal(0, 0.05, (weight.shape[0], rank)).astype(np.float32)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    config = CONFIG | {"r": rank, "lora_alpha": 2 * rank} | dict(changes or {})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merge_adapter(adapter: Path, folder: Path) -> Path:
    """Write the demo model with W + B A alpha / r in place of each W that ``adapter`` changes, in float32."""
    shutil.copytree(DEMO_MODEL, folder)
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = read_tensors(folder / "model.safetensors")
    pairs = read_tensors(adapter / "adapter_model.safetensors")
    for name, a in pairs.items():
        if name.endswith("lora_A.weight"):
            b = pairs[name.replace("lora_A", "lora_B")]
            layer = name.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[layer] = weights[layer] + b @ a * np.float32(config["lora_alpha"] / config["r"])
    write_tensors(folder / "model.safetensors", weights)
    return folder


def read_tensors(path: Path) -> Arrays:
    """Return the bfloat16 and float32 tensors of a safetensors file, as float32."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = Arrays()
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data[begin:end], "<f4")
        found[name] = values.reshape(entry["shape"])
    return found


def write_tensors(path: Path, tensors: Arrays) -> None:
    header, end = {}, 0
    for name, values in tensors.items():
        start, end = end, end + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in tensors.values()))
