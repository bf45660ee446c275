"""Tokens per second and GPU use while every replica of a run generated, from the run's telemetry.

    python infra/gpu-bench/rate.py TELEMETRY_FILE

The rate in a run's report covers the time from the first admitted to the last finished rollout. That includes times in
which a replica was still starting or had nothing left to do.
"""

import sys

import polars as pl


def main() -> None:
    samples = pl.read_parquet(sys.argv[1]).sort("time")
    # the replicas of different nodes have the same indices, but sessions of their own
    engine = ("session", "index")
    made = pl.col("generation_tokens").diff().over(engine)
    busy = samples.filter(source="replica").with_columns(made=made).filter(pl.col("made") > 0)
    spans = busy.group_by(engine).agg(first=pl.col("time").min(), last=pl.col("time").max(), samples=pl.len())
    begin, end = spans["first"].max(), spans["last"].min()
    inside = pl.col("time").is_between(begin, end, closed="right")
    tokens, seconds = busy.filter(inside)["made"].sum(), (end - begin).total_seconds()
    print(spans.sort(engine))
    print(f"{spans.height} engines at work for {seconds:.1f} s: {tokens:,} tokens, {tokens / seconds:,.0f} tokens/s")
    gpus = samples.filter(inside, source="gpu").group_by("index").agg(pl.col("utilization_percent").mean())
    print("GPU busy:", ", ".join(f"{busy:.0f}%" for _, busy in gpus.sort("index").iter_rows()))


if __name__ == "__main__":
    main()
