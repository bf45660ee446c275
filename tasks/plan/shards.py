"""Split the questions into shards, mark finished ones, and find what remains. All stages work shard by shard."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.files import publish_json, publish_parquet, read_json, sha256_file
from tasks.plan.run_plan import RunPlan
from tasks.records import QUESTION_SCHEMA, ROLLOUT_SCHEMA, RunPaths
from tasks.scoring.score import Scorer
from tasks.scoring.scorers import load_scorer


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One slice of a run's questions, and how many rollouts it has when it is finished."""

    index: int
    num_questions: int
    num_rollouts: int


@dataclass(frozen=True, kw_only=True)
class RemainingShards:
    """The work that is left of a run; false when nothing is left."""

    to_generate: list[Shard]
    to_score: list[Shard]
    generated: list[Shard]
    """The shards that have their rollouts, scored or not."""

    def __bool__(self) -> bool:
        return bool(self.to_generate or self.to_score)


def shard_dataset(plan: RunPlan) -> list[Shard]:
    """Publish the question shards that are missing or damaged; return all shards in order."""
    shards = []
    for index in range(plan.num_shards):
        questions = plan.questions.slice(index * plan.shard_size, plan.shard_size)
        path = plan.paths.questions(index)
        if not _same_questions(path, questions):
            publish_parquet(questions, path)
        shards.append(
            Shard(
                index=index,
                num_questions=questions.height,
                num_rollouts=questions.height * plan.rollouts_per_question,
            )
        )
    return shards


def mark_finished(paths: RunPaths, stage: str, index: int, file: Path, made_from: str = "") -> None:
    """Record that ``file`` is the finished output of ``stage`` for shard ``index``, with its checksum.

    ``made_from`` identifies the input of ``file``: with other input the file does not count as finished.
    """
    publish_json(
        {"sha256": sha256_file(file), "bytes": file.stat().st_size, "made_from": made_from},
        _marker(paths, stage, index),
    )


def is_finished(paths: RunPaths, stage: str, index: int, file: Path, made_from: str = "") -> bool:
    """Return whether ``file`` has the bytes that ``mark_finished`` recorded, and was made from the same input."""
    record = read_json(_marker(paths, stage, index))
    if not isinstance(record, dict) or not file.is_file() or file.stat().st_size != record.get("bytes"):
        return False
    return record.get("made_from") == made_from and record.get("sha256") == sha256_file(file)


def scores_made_from(paths: RunPaths, index: int, scorer: Scorer) -> str:
    """Return what identifies the input of a shard's scores: the hash of its rollouts, and the scorer's version."""
    record = read_json(_marker(paths, "rollouts", index))
    rollouts = record.get("sha256") if isinstance(record, dict) else None
    return f"{rollouts} {scorer.name}@{scorer.version}"


def rollouts_finished(paths: RunPaths, shard: Shard) -> bool:
    """Return whether the shard's rollouts are published, intact and complete."""
    path = paths.rollouts(shard.index)
    if not is_finished(paths, "rollouts", shard.index, path):
        return False
    lazy = pl.scan_parquet(path)
    return lazy.collect_schema() == ROLLOUT_SCHEMA and lazy.select(pl.len()).collect().item() == shard.num_rollouts


def find_remaining(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    """Return what is left of ``shards``, from the checked files in the run directory."""
    to_generate = [shard for shard in shards if not rollouts_finished(plan.paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not _is_scored(plan, shard)]
    return RemainingShards(to_generate=to_generate, to_score=to_score, generated=generated)


def _is_scored(plan: RunPlan, shard: Shard) -> bool:
    paths, index = plan.paths, shard.index
    made_from = scores_made_from(paths, index, load_scorer(plan.config.scorer))
    return is_finished(paths, "scores", index, paths.scores(index), made_from)


def _marker(paths: RunPaths, stage: str, index: int) -> Path:
    return paths.state / stage / f"shard-{index:05d}.json"


def _same_questions(path: Path, questions: pl.DataFrame) -> bool:
    try:
        stored = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError):
        return False
    return stored.schema == QUESTION_SCHEMA and stored.equals(questions)
