"""A toy language model with a seeded sampler like vLLM's, so that rounding and tampering have known effects.

Logits depend on the question, the arm and the previous token; ``rounding`` adds noise to them, as another batch shape
would. Every rollout draws its tokens with noise of its own seed, whatever the logits are.
"""

from pathlib import Path

import numpy as np
import polars as pl

from tasks.records import RunPaths
from tests.support.synthetic import publish_shard, write_run

VOCABULARY = 40
END = 0


def write_toy_run(
    root: Path,
    *,
    questions: int = 24,
    shards: int = 2,
    arms: int = 2,
    length: int = 16,
    temperature: float = 0.7,
    stated_temperature: float | None = None,
    rounding: float = 0.0,
    order: int = 0,
    draws: int = 0,
    top_k: int = 12,
    dtype: str = "bfloat16",
    tested: dict[str, object] | None = None,
) -> RunPaths:
    """Write a run of the toy model. ``rounding`` is the standard deviation of the logits' noise, drawn by ``order``;
    ``draws`` seeds the sampler; ``stated_temperature`` is what the rollouts claim."""
    assert questions % shards == 0
    paths = write_run(
        root,
        shards=shards,
        questions_per_shard=questions // shards,
        arms=arms,
        tokens=length,
        comparable={"dataset": f"toy {questions}"},
        tested={"dtype": dtype, **(tested or {})},
    )
    per_shard = questions // shards * arms
    ids, logprobs, top_ids, top_logprobs = _sample(
        questions * arms, length, temperature, rounding, (order, draws), top_k
    )
    for shard in range(shards):
        rows = range(shard * per_shard, (shard + 1) * per_shard)
        ends = [int(np.argmax(ids[row] == END)) + 1 if END in ids[row] else length for row in rows]
        spans = list(zip(rows, ends, strict=True))
        completion_ids = [ids[row, :end].tolist() for row, end in spans]
        edit(
            paths.rollouts(shard),
            pl.Series("completion_ids", completion_ids, pl.List(pl.Int32)),
            pl.Series("logprobs", [logprobs[row, :end].tolist() for row, end in spans], pl.List(pl.Float32)),
            _top("top_logprob_ids", top_ids, spans, pl.Int32),
            _top("top_logprobs", top_logprobs, spans, pl.Float32),
            pl.Series("completion", [" ".join(map(str, tokens)) for tokens in completion_ids]),
            pl.Series("prompt_ids", [[row] for row in rows], pl.List(pl.Int32)),
            pl.Series("ground_truth", [str(row) for row in rows]),
            pl.Series("finish_reason", ["stop" if tokens[-1] == END else "length" for tokens in completion_ids]),
            pl.lit(temperature if stated_temperature is None else stated_temperature).alias("temperature"),
            pl.Series("seed", list(rows), pl.Int64),
            pl.lit(dtype).alias("dtype"),
        )
        edit(
            paths.scores(shard),
            pl.Series("reward", [float(sum(tokens) % 2) for tokens in completion_ids], pl.Float32),
            pl.Series("extracted_answer", [str(sum(tokens)) for tokens in completion_ids]),
        )
    return paths


def edit(path: Path, *columns: pl.Expr | pl.Series) -> None:
    """Replace columns of a Parquet file, keeping its schema."""
    frame = pl.read_parquet(path)
    publish_shard(frame.with_columns(*columns).match_to_schema(frame.schema), path)


def _top(name: str, values: np.ndarray, spans: list[tuple[int, int]], kind: type[pl.DataType]) -> pl.Series:
    lists = [values[row, :end].tolist() if values.shape[-1] else None for row, end in spans]
    return pl.Series(name, lists, pl.List(pl.List(kind)))


def _sample(
    rollouts: int, length: int, temperature: float, rounding: float, seeds: tuple[int, int], top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    model = np.random.default_rng(7)
    by_token = 2.0 * model.normal(size=(VOCABULARY, VOCABULARY))
    by_rollout = 2.0 * model.normal(size=(rollouts, VOCABULARY))
    rounding_noise, draws = np.random.default_rng([1, seeds[0]]), np.random.default_rng([2, seeds[1]])
    token = np.zeros(rollouts, dtype=np.int64)
    steps = []
    for _ in range(length):
        logits = by_token[token] + by_rollout + rounding_noise.normal(size=(rollouts, VOCABULARY)) * rounding
        logits = logits / (temperature or 1.0)
        logprobs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        noise = draws.gumbel(size=logits.shape) if temperature else 0.0
        token = (logprobs + noise).argmax(axis=1)
        top = np.argsort(-logprobs, axis=1)[:, :top_k]
        steps.append((token, logprobs[np.arange(rollouts), token], top, np.take_along_axis(logprobs, top, axis=1)))
    ids, own, top_ids, top_logprobs = (np.stack(part, axis=1) for part in zip(*steps, strict=True))
    return ids, own, top_ids, top_logprobs
