"""Split the questions into shards, mark finished ones, and find what remains. All stages work shard by shard."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.files import publish_parquet, sha256_of
from tasks.plan.fingerprint import dataset_digest
from tasks.plan.run_plan import RunPlan
from tasks.records import QUESTION_SCHEMA, RunPaths, are_rollouts
from tasks.scoring.score import Scorer
from tasks.scoring.scorer_calls import ROW
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import published_record, record_published


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
        questions = plan.questions.select(*QUESTION_SCHEMA).slice(index * plan.shard_size, plan.shard_size)
        path = plan.paths.questions(index)
        made_from = dataset_digest(questions)
        if not is_finished(path, made_from):
            publish_parquet(questions, path)
            record_published(path, made_from=made_from)
        shards.append(
            Shard(
                index=index,
                num_questions=questions.height,
                num_rollouts=questions.height * plan.rollouts_per_question,
            )
        )
    return shards


def dataset_rows(questions: pl.DataFrame) -> pl.DataFrame | None:
    """Return ``example_id`` and ``row`` of what ``load_questions`` gave; None when the scorer asks for no columns."""
    return questions.select("example_id", ROW) if ROW in questions.columns else None


def is_finished(path: Path, made_from: str = "") -> bool:
    """Return whether the file at ``path`` has the bytes on record, and was made from the input ``made_from``."""
    record = published_record(path)
    if record is None or record.made_from != made_from or not path.is_file():
        return False
    return sha256_of(path) == record.sha256


def scores_made_from(paths: RunPaths, index: int, scorer: Scorer) -> str:
    """Return what identifies the input of a shard's scores: the hash of its rollouts, and the scorer's version."""
    record = published_record(paths.rollouts(index))
    return f"{record and record.sha256} {scorer.name}@{scorer.version}"


def rollouts_finished(paths: RunPaths, shard: Shard) -> bool:
    """Return whether the shard's rollouts are published, intact and complete."""
    path = paths.rollouts(shard.index)
    if not is_finished(path):
        return False
    lazy = pl.scan_parquet(path, glob=False)
    return are_rollouts(lazy.collect_schema()) and lazy.select(pl.len()).collect().item() == shard.num_rollouts


def rollouts_to_make(plan: RunPlan) -> int:
    """Return how many rollouts the run lacks, by the names of its files alone: ``find_remaining`` reads them."""
    published = sum(path.stem.startswith("shard-") for path in plan.paths.root.glob("rollouts/*.parquet"))
    return max(0, plan.num_rollouts - published * plan.shard_size * plan.rollouts_per_question)


def scores_finished(plan: RunPlan, shard: Shard) -> bool:
    """Return whether the shard's scores are published, intact, and made from today's rollouts by today's scorer."""
    made_from = scores_made_from(plan.paths, shard.index, load_scorer(plan.config.scorer))
    return is_finished(plan.paths.scores(shard.index), made_from)


def find_remaining(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    """Return what is left of ``shards``, from the checked files in the run directory."""
    to_generate = [shard for shard in shards if not rollouts_finished(plan.paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not scores_finished(plan, shard)]
    return RemainingShards(to_generate=to_generate, to_score=to_score, generated=generated)
