"""Measure vLLM's own limit: one ``LLM.generate`` call over the prompts of a finished run, at vLLM's defaults.

limit.py RUN_DIR MODEL [features]: completions have the lengths of the run's. With ``features`` each has its seed, its
logprobs and its text, as ``harvest run`` stores them; without, nothing but token ids is asked for.
"""

import json
import sys
import time
from pathlib import Path

BEGAN = time.time()


def main() -> None:
    import polars as pl
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    run_dir, model, *more = sys.argv[1:]
    features = more == ["features"]
    files = sorted(Path(run_dir, "rollouts").glob("*.parquet"))
    rows = pl.concat([pl.read_parquet(file, columns=["prompt_ids", "num_completion_tokens", "seed"]) for file in files])
    llm = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=2048,
        gpu_memory_utilization=0.95,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
    )
    params = [
        SamplingParams(
            max_tokens=tokens,
            temperature=0.7,
            ignore_eos=True,
            seed=seed if features else None,
            logprobs=0 if features else None,
            flat_logprobs=features,
            detokenize=features,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for tokens, seed in rows.select("num_completion_tokens", "seed").iter_rows()
    ]
    prompts = [{"prompt_token_ids": ids} for ids in rows["prompt_ids"].to_list()]
    first = time.time()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.time() - first
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(
        json.dumps({"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds, "start_s": first - BEGAN})
    )


if __name__ == "__main__":
    main()
