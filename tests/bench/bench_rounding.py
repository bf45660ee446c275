"""By how much rounding changes log-odds, for each dtype: the basis of the default near-tie limits.

Runs the same tokens once as a prefill and once token by token on a CPU. Prints by how much the log-odds between two of
the five most likely tokens differ, in nats. ``python -m tests.bench.bench_rounding``
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

PROMPTS, LENGTH, TOP = 16, 64, 5
LOGIT_SCALE = 0.2
"""Standard deviation of the random model's output weights: its logits then reach 23, as a trained model's do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="profiles/demo/model", help="a transformers model, beside the random one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {"random, 8 layers": _random(), arguments.model: AutoModelForCausalLM.from_pretrained(arguments.model)}
    for name, model in models.items():
        ids = torch.randint(0, model.config.vocab_size, (PROMPTS, LENGTH))
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            shift = _log_odds_shift(model.to(dtype).eval(), ids)
            quantiles = torch.quantile(shift, torch.tensor([0.5, 0.99, 1.0])).tolist()
            print(
                f"{name} {dtype}: "
                + ", ".join(f"{q} {v:.2g}" for q, v in zip(("50%", "99%", "max"), quantiles, strict=True))
            )


def _random() -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight, std=LOGIT_SCALE)
    return model


@torch.no_grad()
def _log_odds_shift(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    prefill = model(ids).logits.float().log_softmax(-1)
    cache, steps = None, []
    for position in range(ids.shape[1]):
        output = model(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    shift = torch.cat(steps, dim=1).float().log_softmax(-1) - prefill
    top = shift.gather(-1, prefill.topk(TOP).indices)
    return (top.amax(-1) - top.amin(-1)).flatten()


if __name__ == "__main__":
    main()
