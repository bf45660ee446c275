"""Draws sample rollouts for the report page: a few of every arm and kind (right, wrong, truncated, error)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from tasks.plain_text import one_line, shortened, visible
from tasks.records import OWN_SCORES, RunPaths
from tasks.scoring.score import is_right
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_shards
from tasks.storage.score_sets import right_at

Kind = Literal["right", "wrong", "truncated", "error"]
MOST = 2
TEXT_CHARACTERS = 1_500
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One rollout; its texts are shortened, and their control characters made visible."""

    kind: Kind
    arm_id: str
    example_id: str
    sample_index: int
    prompt: tuple[tuple[str, str], ...]
    completion: str
    reward: float | None
    extracted_answer: str | None
    extraction_method: str | None
    ground_truth: str | None
    tokens: int


def pick_samples(
    run_dir: Path, rows: pl.DataFrame, *, most: int = MOST, scores: str = OWN_SCORES
) -> tuple[Sample, ...]:
    """Return at most ``most`` rollouts of each kind and arm, drawn at random but the same each time.

    ``rows`` has ``rollout_id``, ``arm_id``, ``reward``, ``is_truncated``, ``error``; the texts are read from the run.
    """
    kind = (
        pl.when(pl.col("error").is_not_null())
        .then(pl.lit("error"))
        .when(pl.col("is_truncated"))
        .then(pl.lit("truncated"))
        .when(is_right("reward", right_at(run_dir, scores)))
        .then(pl.lit("right"))
        .when(pl.col("reward").is_not_null())
        .then(pl.lit("wrong"))
    )
    chosen = (
        rows.select("rollout_id", "arm_id", kind.alias("kind"), pl.col("rollout_id").hash(seed=_SEED).alias("draw"))
        .filter(pl.col("kind").is_not_null())
        .sort("draw")
        .group_by("arm_id", "kind")
        .head(most)
    )
    wanted = chosen.lazy().select("rollout_id", "arm_id", "kind")
    paths = RunPaths(root=run_dir, scores_folder=scores)
    # one shard at a time: a scan over all shards would hold every text of the run at once
    found = pl.concat(
        scan_shard(paths.rollouts(index))
        .select(
            "rollout_id",
            "example_id",
            "sample_index",
            "prompt",
            "completion",
            "error",
            "ground_truth",
            "num_completion_tokens",
        )
        .join(wanted, on="rollout_id", how="inner")
        .join(
            scan_shard(paths.scores(index)).select("rollout_id", "reward", "extracted_answer", "extraction_method"),
            on="rollout_id",
            how="left",
        )
        .collect()
        for index in known_shards(run_dir, "rollouts")
    ).sort("arm_id", "kind", "rollout_id")
    return tuple(_sample(row) for row in found.iter_rows(named=True))


def _sample(row: dict[str, Any]) -> Sample:
    messages = row["prompt"] or []
    return Sample(
        kind=row["kind"],
        arm_id=row["arm_id"],
        example_id=one_line(row["example_id"], 80),
        sample_index=row["sample_index"],
        prompt=tuple((one_line(item["role"] or "", 20), _text(item["content"])) for item in messages),
        completion=_text(row["error"] if row["kind"] == "error" else row["completion"]),
        reward=row["reward"],
        extracted_answer=None if row["extracted_answer"] is None else one_line(row["extracted_answer"], 80),
        extraction_method=row["extraction_method"],
        ground_truth=None if row["ground_truth"] is None else one_line(row["ground_truth"], 80),
        tokens=row["num_completion_tokens"],
    )


def _text(value: str | None) -> str:
    return visible(shortened(value or "", TEXT_CHARACTERS))
