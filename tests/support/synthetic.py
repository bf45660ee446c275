"""Synthetic run directories: valid, seeded and fast enough for a million rollouts.

Two runs written with the same arguments hold the same rollouts. ``divergence``, ``logprob_noise``, ``accuracy`` and
``variant`` make the second of a pair differ from the first in a known way, on the same questions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from profiles.load import load_profile
from tasks.files import publish_json, publish_parquet
from tasks.plan.run_config import DatasetSource, RunConfig
from tasks.records import QUESTION_SCHEMA, ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths
from tasks.storage.published import record_published
from tasks.storage.shard_columns import SHARD_SCHEMAS

ARMS = ("step_by_step", "concise", "algebra", "verify", "direct", "tutor", "estimate", "facts")
VOCABULARY = 32_000


def write_run(
    root: Path,
    *,
    shards: int = 2,
    questions_per_shard: int = 4,
    arms: int | Sequence[str] = ARMS,
    samples: int = 1,
    tokens: int = 16,
    min_tokens: int | None = None,
    top_k: int = 0,
    seed: int = 0,
    accuracy: float | Mapping[str, float] = 0.5,
    truncated: float = 0.0,
    error_rows: float = 0.0,
    divergence: float = 0.0,
    logprob_noise: float = 0.0,
    variant: int = 0,
    comparable: Mapping[str, Any] | None = None,
    tested: Mapping[str, Any] | None = None,
    with_scores: bool = True,
) -> RunPaths:
    """Write a run directory at ``root`` and return its paths; ``root.name`` is the run_id.

    ``tokens`` is the length of every completion, or the longest when ``min_tokens`` is given. ``accuracy`` is the
    share of correct rollouts, overall or per arm. ``divergence`` is the share of rollouts whose tokens differ from a
    random position on, and ``logprob_noise`` the standard deviation added to every logprob; both, and the rewards,
    are drawn anew for another ``variant``, while questions and the undisturbed tokens depend on ``seed`` alone.
    """
    paths = RunPaths(root=root)
    arm_ids = [*ARMS, *(f"arm_{index}" for index in range(len(ARMS), arms))][:arms] if isinstance(arms, int) else arms
    root.mkdir(parents=True, exist_ok=True)
    _write_config(
        paths,
        comparable={
            "model": "synthetic-model",
            "tokenizer": "synthetic-tokenizer",
            "chat_template": "synthetic-template",
            "arms": _digest(*arm_ids),
            "dataset": _digest(str(shards), str(questions_per_shard), str(seed)),
            "sampling": f"temperature=1.0 top_p=1.0 max_tokens={tokens} n={samples}",
            "seed": seed,
            **(comparable or {}),
        },
        tested={
            "question_batch_size": 16,
            "enforce_eager": False,
            "tensor_parallel_size": 1,
            "replicas": 1,
            "dtype": "bfloat16",
            "vllm_version": "0.0.0+synthetic",
            **(tested or {}),
        },
        arms=arm_ids,
        num_questions=shards * questions_per_shard,
        num_shards=shards,
        samples=samples,
    )
    for shard in range(shards):
        questions = _questions(shard, questions_per_shard, seed)
        rollouts = _rollouts(
            questions,
            run_id=paths.run_id,
            arms=arm_ids,
            samples=samples,
            lengths=(tokens if min_tokens is None else min_tokens, tokens),
            top_k=top_k,
            base=np.random.default_rng([seed, shard]),
            noise=np.random.default_rng([seed, shard, variant + 1]),
            truncated=truncated,
            error_rows=error_rows,
            divergence=divergence,
            logprob_noise=logprob_noise,
        )
        publish_shard(questions, paths.questions(shard))
        publish_shard(rollouts, paths.rollouts(shard))
        if with_scores:
            scores = _scores(rollouts, accuracy, np.random.default_rng([seed, shard, variant + 1, 1]))
            publish_shard(scores, paths.scores(shard))
    return paths


def write_large_run(root: Path, rollouts: int, *, truncated: float = 0.0) -> RunPaths:
    """Write a run of at least so many rollouts: ten shards, four samples per arm, completions of 20 to 400 tokens."""
    shards, samples = 10, 4
    questions = -(-rollouts // (shards * len(ARMS) * samples))
    return write_run(
        root,
        shards=shards,
        questions_per_shard=questions,
        samples=samples,
        min_tokens=20,
        tokens=400,
        truncated=truncated,
    )


def publish_shard(frame: pl.DataFrame, path: Path) -> None:
    """Publish a shard file of a run and put it on record, as a run does. Columns that ``frame`` lacks are filled."""
    schema = SHARD_SCHEMAS[path.parent.name]
    filled = {
        name: pl.lit(
            0 if kind.is_numeric() else False if kind == pl.Boolean else "-" if kind == pl.String else None, kind
        )
        for name, kind in schema.items()
        if name not in frame.columns
    }
    publish_parquet(frame.with_columns(**filled), path)
    record_published(path)


def _write_config(
    paths: RunPaths,
    *,
    comparable: Mapping[str, Any],
    tested: Mapping[str, Any],
    arms: Sequence[str],
    num_questions: int,
    num_shards: int,
    samples: int,
) -> None:
    config = RunConfig(dataset=DatasetSource(path="synthetic", questions=num_questions), model="synthetic-model")
    publish_json(
        {
            "run_id": paths.run_id,
            "fingerprint": _digest(json.dumps([comparable, tested, num_questions], sort_keys=True)),
            "comparable": comparable,
            "tested": tested,
            "config": config.model_dump(mode="json"),
            "profile": load_profile("cpu-demo").model_dump(mode="json"),
            "arms": [{"id": arm} for arm in arms],
            "model": {"name": "synthetic-model"},
            "num_questions": num_questions,
            "num_shards": num_shards,
            "num_rollouts": num_questions * len(arms) * samples,
        },
        paths.config,
    )


def _questions(shard: int, count: int, seed: int) -> pl.DataFrame:
    numbers = np.random.default_rng([seed, shard, 99]).integers(0, 1000, size=(2, count))
    index = np.arange(shard * count, (shard + 1) * count)
    frame = pl.DataFrame({"index": index, "left": numbers[0], "right": numbers[1]})
    return frame.select(
        pl.format("q{}", pl.col("index").cast(pl.String).str.zfill(7)).alias("example_id"),
        pl.format("What is {} plus {}?", "left", "right").alias("question"),
        (pl.col("left") + pl.col("right")).cast(pl.String).alias("ground_truth"),
    ).match_to_schema(QUESTION_SCHEMA)


def _rollouts(
    questions: pl.DataFrame,
    *,
    run_id: str,
    arms: Sequence[str],
    samples: int,
    lengths: tuple[int, int],
    top_k: int,
    base: np.random.Generator,
    noise: np.random.Generator,
    truncated: float,
    error_rows: float,
    divergence: float,
    logprob_noise: float,
) -> pl.DataFrame:
    keys = questions.join(pl.DataFrame({"arm_id": list(arms)}), how="cross").join(
        pl.DataFrame({"sample_index": np.arange(samples, dtype=np.int32)}), how="cross"
    )
    rows = keys.height
    failed = base.random(rows) < error_rows
    length = np.where(failed, 0, base.integers(lengths[0], lengths[1] + 1, rows))
    prompt_length = np.where(failed, 0, base.integers(20, 40, rows))
    ids, logprobs = _tokens(length, base, noise, divergence, logprob_noise)
    stopped = base.random(rows) >= truncated
    top_ids, top_logprobs = _top(ids, logprobs, length, top_k, noise)
    null = pl.lit(None)
    error = pl.col("_failed")
    return (
        keys.with_columns(
            _lists(base.integers(0, VOCABULARY, prompt_length.sum(), dtype=np.int32), prompt_length, "prompt_ids"),
            _lists(ids, length, "completion_ids"),
            _lists(logprobs, length, "logprobs"),
            top_ids,
            top_logprobs,
            pl.Series("_failed", failed),
            pl.Series("_stopped", stopped),
            pl.Series("seed", base.integers(0, 2**62, rows)),
            pl.Series("num_prompt_tokens", prompt_length, dtype=pl.Int32),
            pl.Series("num_completion_tokens", length, dtype=pl.Int32),
            group_id=pl.format("{}/{}", "example_id", "arm_id"),
            prompt=pl.concat_list(
                pl.struct(role=pl.lit("system"), content=pl.format("You answer in the manner of {}.", "arm_id")),
                pl.struct(role=pl.lit("user"), content="question"),
            ),
        )
        .with_columns(
            rollout_id=pl.format("{}/{}/{}", pl.lit(run_id), "group_id", "sample_index"),
            run_id=pl.lit(run_id),
            completion=pl.when(~error).then(
                pl.format(
                    "{} tokens from {}. The answer is {}.",
                    "num_completion_tokens",
                    pl.col("completion_ids").list.first(),
                    "ground_truth",
                )
            ),
            finish_reason=pl.when(~error).then(pl.when("_stopped").then(pl.lit("stop")).otherwise(pl.lit("length"))),
            stop_reason=null,
            is_truncated=~error & ~pl.col("_stopped"),
            error=pl.when(error).then(pl.lit("the prompt is longer than the context")),
            temperature=pl.lit(1.0),
            top_p=pl.lit(1.0),
            max_tokens=pl.lit(lengths[1]),
            model=pl.lit("synthetic-model"),
            model_revision=pl.lit("0" * 40),
            engine_version=pl.lit("0.0.0+synthetic"),
            dtype=pl.lit("bfloat16"),
            question_batch_size=pl.lit(16),
            max_num_seqs=pl.lit(16 * len(arms) * samples),
            oom_rung=pl.lit(0),
            created_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)),
        )
        .select(pl.col(name).cast(kind) for name, kind in ROLLOUT_SCHEMA.items())
    )


def _tokens(
    length: np.ndarray, base: np.random.Generator, noise: np.random.Generator, divergence: float, logprob_noise: float
) -> tuple[np.ndarray, np.ndarray]:
    total = int(length.sum())
    ids = base.integers(0, VOCABULARY, total, dtype=np.int32)
    logprobs = -base.standard_exponential(total, dtype=np.float32)
    row = np.repeat(np.arange(length.size), length)
    position = np.arange(total) - np.repeat(np.cumsum(length) - length, length)
    onset = np.where(
        noise.random(length.size) < divergence, noise.integers(0, np.maximum(length, 1)), np.iinfo(np.int64).max
    )
    changed = position >= onset[row]
    # an offset that is never a multiple of the vocabulary, so that a diverged token always differs
    ids[changed] = (ids[changed] + noise.integers(1, VOCABULARY, int(changed.sum()), dtype=np.int32)) % VOCABULARY
    logprobs[changed] = -noise.standard_exponential(int(changed.sum()), dtype=np.float32)
    if logprob_noise:
        logprobs = np.minimum(logprobs + noise.normal(0.0, logprob_noise, total).astype(np.float32), 0.0)
    return ids, logprobs


def _top(
    ids: np.ndarray, logprobs: np.ndarray, length: np.ndarray, top_k: int, noise: np.random.Generator
) -> tuple[pl.Series, pl.Series]:
    if not top_k:
        empty = [None] * length.size
        return pl.Series("top_logprob_ids", empty, dtype=pl.List(pl.List(pl.Int32))), pl.Series(
            "top_logprobs", empty, dtype=pl.List(pl.List(pl.Float32))
        )
    top_ids = noise.integers(0, VOCABULARY, (ids.size, top_k), dtype=np.int32)
    top_ids[:, 0] = ids
    lower = np.cumsum(noise.standard_exponential((ids.size, top_k), dtype=np.float32), axis=1)
    top_logprobs = logprobs[:, None] - lower + lower[:, :1]
    per_token = np.full(ids.size, top_k)
    return (
        _lists(_lists(top_ids.ravel(), per_token, "").to_arrow(), length, "top_logprob_ids"),
        _lists(_lists(top_logprobs.ravel(), per_token, "").to_arrow(), length, "top_logprobs"),
    )


def _lists(values: Any, lengths: np.ndarray, name: str) -> pl.Series:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    series = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))
    assert isinstance(series, pl.Series)
    return series.alias(name)


def _scores(rollouts: pl.DataFrame, accuracy: float | Mapping[str, float], rng: np.random.Generator) -> pl.DataFrame:
    if isinstance(accuracy, Mapping):
        rates = rollouts["arm_id"].replace_strict(dict(accuracy), return_dtype=pl.Float64).to_numpy()
    else:
        rates = np.full(rollouts.height, accuracy)
    correct = pl.Series("_correct", rng.random(rollouts.height) < rates)
    answered = pl.col("error").is_null()
    return (
        rollouts.with_columns(correct)
        .with_columns(
            reward=pl.when(answered).then(pl.col("_correct").cast(pl.Float32)),
            extracted_answer=pl.when(answered).then(
                pl.when("_correct").then("ground_truth").otherwise(pl.lit("no number"))
            ),
            extraction_method=pl.when(answered).then(pl.lit("strict")),
            correct_flexible=pl.when(answered).then("_correct"),
            gold_suspect=pl.lit(False),
            scorer=pl.lit("synthetic"),
            scorer_version=pl.lit("1"),
        )
        .select(pl.col(name).cast(kind) for name, kind in SCORE_SCHEMA.items())
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
