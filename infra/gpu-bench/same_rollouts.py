"""How many rollouts of two runs have the same tokens, whatever the runs' models are.

python infra/gpu-bench/same_rollouts.py RUN_DIR RUN_DIR
"""

import sys
from pathlib import Path

import polars as pl

KEY = ["example_id", "arm_id", "sample_index"]


def main() -> None:
    one, other = (pl.read_parquet(Path(run) / "rollouts" / "*.parquet") for run in sys.argv[1:3])
    both = one.join(other, on=KEY, suffix="_other", validate="1:1")
    same = both.filter(pl.col("completion_ids") == pl.col("completion_ids_other"))
    differ = same.select((pl.col("logprobs").explode() - pl.col("logprobs_other").explode()).abs().max()).item()
    print(f"{same.height} of {both.height} rollouts have the same tokens ({one.height} and {other.height} rows)")
    print(f"largest difference of a logprob in those: {differ}")


if __name__ == "__main__":
    main()
