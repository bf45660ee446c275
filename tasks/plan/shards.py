"""Split the questions into shards, mark finished ones, and find what remains. All stages work shard by shard."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError, DamagedFile
from tasks.files import publish_parquet, sha256_of
from tasks.plan.fingerprint import STOPPING, dataset_digest
from tasks.plan.run_plan import RunPlan
from tasks.records import QUESTION_SCHEMA, RunPaths, are_rollouts, wave_of
from tasks.scoring.score import Scorer
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scorer_calls import ROW
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import has_own_record, published_record, read_wave, record_published
from tasks.storage.run_files import settled_waves


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One slice of a run's questions, or a later wave of it, and how many rollouts it has when it is finished."""

    index: int
    num_questions: int
    num_rollouts: int
    """Where groups stop by a rule: those of its first samples, and of a later wave those that it asks for."""


@dataclass(frozen=True, kw_only=True)
class RemainingShards:
    """The work that is left of a run; false when nothing is left."""

    to_generate: list[Shard]
    to_score: list[Shard]
    generated: list[Shard]
    """The shards that have their rollouts, scored or not, each with the number of all."""
    rollouts_begun: int = 0
    """Rollouts that shards of ``to_generate`` have in finished waves."""

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
    return made_from_scorer(paths, index, scorer.name, scorer.version)


def made_from_scorer(paths: RunPaths, index: int, name: str, version: str) -> str:
    """Return what ``scores_made_from`` does, for a scorer that is only known by name and version."""
    record = published_record(paths.rollouts(index))
    return f"{record and record.sha256} {name}@{version}"


def record_rollouts(paths: RunPaths, index: int) -> None:
    """Record the published rollouts of a shard, or of a later wave with what it asks."""
    asked = published_record(paths.questions(index)) if wave_of(index) else None
    record_published(paths.rollouts(index), made_from=asked.made_from if asked else "")


def rollouts_finished(paths: RunPaths, shard: Shard, made_from: str = "") -> bool:
    """Return whether the shard's rollouts are published, intact and complete; those of a wave by what it asks."""
    path = paths.rollouts(shard.index)
    return is_finished(path, made_from) and published_rows(path) == shard.num_rollouts


def published_rows(path: Path) -> int | None:
    """Return how many rollouts are in a published file; None if it is not what is on record."""
    record = published_record(path)
    if record is None or not is_finished(path, record.made_from):
        return None
    lazy = pl.scan_parquet(path, glob=False)
    return int(lazy.select(pl.len()).collect().item()) if are_rollouts(lazy.collect_schema()) else None


def make_scores(plan: RunPlan, index: int) -> pl.DataFrame:
    """Score the rollouts of a shard or of a later wave, publish and record the scores, and return them.

    Raises ConfigError where a rule needs the scores and the scorer is no more that of the plan.
    """
    path, scorer = plan.paths.scores(index), load_scorer(plan.config.scorer)
    if plan.has_rule and plan.comparable[STOPPING]["scorer"] != f"{scorer.name} {scorer.version}":
        raise ConfigError(
            f"scorer {plan.config.scorer!r} has changed since the run began, and its scores decide how many samples "
            "there are. Put it back as it was, and the same command resumes; with the changed one it is another run"
        )
    scores = score_shard(plan.paths.rollouts(index), path, plan.config.scorer, dataset_rows(plan.questions))
    record_published(path, made_from=scores_made_from(plan.paths, index, scorer))
    return scores


def rollouts_to_make(plan: RunPlan) -> int:
    """Return how many rollouts the run lacks, by its records and the names of its files; by a rule, the least."""
    if plan.has_rule:
        # a shard that is not settled may lack nothing but the look at its last scores
        settled = sum(settled_waves(plan.paths.root, index) is not None for index in range(plan.num_shards))
        return (plan.num_shards - settled) * plan.shard_size * plan.rollouts_per_question
    published = sum(path.stem.startswith("shard-") for path in plan.paths.root.glob("rollouts/*.parquet"))
    return max(0, plan.num_rollouts - published * plan.shard_size * plan.rollouts_per_question)


def scores_finished(plan: RunPlan, shard: Shard) -> bool:
    """Return whether the shard's scores are published, intact, and made from today's rollouts by today's scorer."""
    rollouts, scores = plan.paths.rollouts(shard.index), plan.paths.scores(shard.index)
    scorer = load_scorer(plan.config.scorer)
    if has_own_record(rollouts) or has_own_record(scores):
        return is_finished(scores, scores_made_from(plan.paths, shard.index, scorer))
    # a downloaded run has no record of what its scores were made from; they say it themselves
    return is_finished(scores) and scorer_of_rows(rollouts, scores) == (scorer.name, scorer.version)


def scorer_of_rows(rollouts: Path, scores: Path) -> tuple[str, str] | None:
    """Return name and version of the one scorer of a file of scores; None unless they are those of ``rollouts``."""
    columns = ["rollout_id", "scorer", "scorer_version"]
    try:
        rows, made = read_wave(rollouts, columns[:1]), read_wave(scores, columns)
    except DamagedFile:
        return None
    scorers = made.select(columns[1:]).unique()
    return scorers.row(0) if scorers.height == 1 and made["rollout_id"].equals(rows["rollout_id"]) else None
