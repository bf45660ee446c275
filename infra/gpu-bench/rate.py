"""Tokens per second while every replica of a run generated, from the run's telemetry.

    python infra/gpu-bench/rate.py TELEMETRY_FILE

The rate in a run's report covers the time from the first admitted to the last finished rollout. That includes times in
which a replica was still starting or had nothing left to do.
"""

import sys

import polars as pl


def main() -> None:
    samples = pl.read_parquet(sys.argv[1]).filter(pl.col("source") == "replica").sort("time")
    busy = samples.with_columns(made=pl.col("generation_tokens").diff().over("session", "index")).filter(
        pl.col("made") > 0
    )
    spans = busy.group_by("index").agg(first=pl.col("time").min(), last=pl.col("time").max(), samples=pl.len())
    begin, end = spans["first"].max(), spans["last"].min()
    inside = busy.filter(pl.col("time").is_between(begin, end, closed="right"))
    tokens, seconds = inside["made"].sum(), (end - begin).total_seconds()
    print(spans.sort("index"))
    print(f"{spans.height} engines at work for {seconds:.1f} s: {tokens:,} tokens, {tokens / seconds:,.0f} tokens/s")


if __name__ == "__main__":
    main()
