"""A randomly initialised model of a published shape, to measure speed where no model can be downloaded.

    python infra/gpu-bench/make_model.py --shape 7b --out DIR

The weights are random, so the text is noise; only the work per token is that of the real model. The output layer is
scaled so that the distributions are about as peaked as a trained model's, which the comparison of two runs needs: with
flat ones every token would be a near-tie. The tokenizer is the embedded demo one, filled up to the shape's vocabulary
with tokens that no text encodes to.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DEMO_MODEL = Path(__file__).parents[2] / "profiles" / "demo" / "model"
# from the config.json of Qwen/Qwen2.5-7B-Instruct, of its 0.5B and 32B, and of Qwen/Qwen3-30B-A3B
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": False,  # tied random embeddings would only repeat the last token
    },
    "32b": {
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "30b-moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "attention_bias": False,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}
INITIAL_STD = 0.02
LOGIT_STD = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    write_model(shape | {"num_hidden_layers": options.layers or shape["num_hidden_layers"]}, options.out, options.seed)


def write_model(shape: dict[str, Any], out: Path, seed: int) -> None:
    """Write config, tokenizer and one safetensors file per layer to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    for key in ("head_dim", "layer_types", "max_window_layers"):
        config.pop(key, None)
    config |= shape
    config |= {"max_position_embeddings": 32768, "dtype": "bfloat16", "torch_dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    _write_tokenizer(shape["vocab_size"], out)
    _write_weights(shape, out, seed)


def _write_tokenizer(vocab_size: int, out: Path) -> None:
    for name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(DEMO_MODEL / name, out / name)
    tokenizer = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    used = {*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    for index in range(vocab_size):
        if index not in used:
            vocabulary[f"x{index}"] = index  # no merge produces this token
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))


def _write_weights(shape: dict[str, Any], out: Path, seed: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int, std: float = INITIAL_STD) -> torch.Tensor:
        return (torch.randn(*size, generator=generator, device=device) * std).to(torch.bfloat16).cpu()

    def ones(size: int) -> torch.Tensor:
        return torch.ones(size, dtype=torch.bfloat16)

    hidden = shape["hidden_size"]
    head = shape.get("head_dim", hidden // shape["num_attention_heads"])
    outer = {"model.norm.weight": ones(hidden)}
    outer["model.embed_tokens.weight"] = normal(shape["vocab_size"], hidden)
    outer["lm_head.weight"] = normal(shape["vocab_size"], hidden, std=LOGIT_STD / hidden**0.5)
    weight_map, total = _save(out, "model-outer.safetensors", outer)

    def feed_forward(at: str, wide: int) -> dict[str, torch.Tensor]:
        return {
            f"{at}.gate_proj.weight": normal(wide, hidden),
            f"{at}.up_proj.weight": normal(wide, hidden),
            f"{at}.down_proj.weight": normal(hidden, wide),
        }

    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors = {f"{at}.input_layernorm.weight": ones(hidden), f"{at}.post_attention_layernorm.weight": ones(hidden)}
        for name, count in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            tensors[f"{at}.self_attn.{name}_proj.weight"] = normal(shape[count] * head, hidden)
            if "num_experts" not in shape:
                tensors[f"{at}.self_attn.{name}_proj.bias"] = torch.zeros(shape[count] * head, dtype=torch.bfloat16)
        tensors[f"{at}.self_attn.o_proj.weight"] = normal(hidden, shape["num_attention_heads"] * head)
        if "num_experts" in shape:
            tensors |= {f"{at}.self_attn.{name}_norm.weight": ones(head) for name in "qk"}
            tensors[f"{at}.mlp.gate.weight"] = normal(shape["num_experts"], hidden)
            for expert in range(shape["num_experts"]):
                tensors |= feed_forward(f"{at}.mlp.experts.{expert}", shape["moe_intermediate_size"])
        else:
            tensors |= feed_forward(f"{at}.mlp", shape["intermediate_size"])
        saved, size = _save(out, f"model-layer-{layer:02d}.safetensors", tensors)
        weight_map |= saved
        total += size
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))


def _save(out: Path, name: str, tensors: dict[str, torch.Tensor]) -> tuple[dict[str, str], int]:
    """Write a file; return the file of each of its tensors, and their size in bytes."""
    save_file(tensors, out / name, metadata={"format": "pt"})
    return dict.fromkeys(tensors, name), sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


if __name__ == "__main__":
    main()
