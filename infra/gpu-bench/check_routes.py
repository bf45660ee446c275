"""Compare the routed experts of a run's rollouts with those that transformers computes from the same weights.

    python infra/gpu-bench/check_routes.py RUN_DIR MODEL_DIR [ROLLOUTS]

Both compute in bfloat16 with kernels of their own, so experts that are nearly as likely change places.
"""

import sys
from pathlib import Path

import polars as pl
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    rows = pl.read_parquet(Path(sys.argv[1]) / "rollouts" / "*.parquet").head(int(sys.argv[3]) if sys.argv[3:] else 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.bfloat16).to(device).eval()
    equal, total = 0, 0
    for prompt, completion, routes in rows.select("prompt_ids", "completion_ids", "routed_experts").iter_rows():
        stored = torch.tensor(routes, device=device)  # (tokens, layers, experts per token)
        ids = torch.tensor([[*prompt, *completion]], device=device)
        assert stored.shape[0] == ids.shape[1] - 1, (stored.shape, ids.shape)
        with torch.inference_mode():
            logits = torch.stack(model(ids, output_router_logits=True).router_logits, 1)
        computed = logits[:-1].topk(stored.shape[2], dim=-1).indices
        equal += (stored[..., :, None] == computed[..., None, :]).any(-1).sum().item()
        total += stored.numel()
    print(
        f"{rows.height} rollouts, shape of the last {tuple(stored.shape)}: {equal / total:.4f} of {total} experts agree"
    )


if __name__ == "__main__":
    main()
