"""A LoRA adapter of random weights, as PEFT saves it, for a model of safetensors files; and the two merged.

python infra/gpu-bench/make_adapter.py MODEL_DIR OUT_DIR [--rank 16] [--seed 0] [--merged DIR]
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALE = 2.0
"""alpha / r"""
STD = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--merged", type=Path)
    options = parser.parse_args()
    write_adapter(options.model, options.out, options.rank, options.seed, options.merged)


def write_adapter(model: Path, out: Path, rank: int, seed: int, merged: Path | None) -> None:
    """Write an adapter of all linear layers to ``out``; with W + SCALE B A for each W, in float32, to ``merged``."""
    generator, adapter = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    if merged is not None:
        shutil.copytree(model, merged)
    for path in sorted(model.glob("*.safetensors")):
        weights = load_file(path)
        for name, weight in weights.items():
            layer = name.removesuffix(".weight")
            if layer.endswith(TARGETS):
                a = torch.randn(rank, weight.shape[1], generator=generator) * STD
                b = torch.randn(weight.shape[0], rank, generator=generator) * STD
                adapter[f"base_model.model.{layer}.lora_A.weight"] = a
                adapter[f"base_model.model.{layer}.lora_B.weight"] = b
                weights[name] = weight.float() + SCALE * (b @ a)
        if merged is not None:
            save_file({name: weight.float() for name, weight in weights.items()}, merged / path.name, {"format": "pt"})
    out.mkdir(parents=True)
    save_file(adapter, out / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": SCALE * rank, "target_modules": TARGETS, "bias": "none"}
    (out / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
