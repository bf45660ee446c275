"""Finds a page of rollouts of a run, finished or not, by arm, outcome and words. One shard is in memory at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import polars as pl

from tasks.errors import ConfigError
from tasks.records import RunPaths
from tasks.results.page_samples import KINDS, MOST_SIDES, QuestionSides, Samples, in_sides, kind_of, read_samples
from tasks.results.rollout_search import scan_with_scores
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_shards
from tasks.storage.score_sets import right_at

PAGE = 25
_LONGEST = 500


@dataclass(frozen=True, kw_only=True)
class RolloutQuery:
    """Which rollouts to show; an empty text selects all. ``page`` counts from 1."""

    arm: str = ""
    kind: str = ""
    text: str = ""
    """Stands in the question, completion, answer that was read, or error; upper and lower case are alike."""
    page: int = 1

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "RolloutQuery":
        """Return the query of a page's address. Raises ConfigError."""
        kind, page = fields.get("kind", ""), fields.get("page", "1")
        if kind not in ("", *KINDS):
            raise ConfigError(f"the outcome {kind[:40]!r} is unknown. Choose one of {', '.join(KINDS)}")
        if not (page.isascii() and page.isdigit() and len(page) < 10 and int(page)):
            raise ConfigError(f"the page {page[:40]!r} is no number from 1 on. Go back to the first page")
        return cls(arm=fields.get("arm", ""), kind=kind, text=fields.get("text", "")[:_LONGEST], page=int(page))

    def address(self, page: int) -> str:
        """Return the query of another page, as it stands in an address."""
        return urlencode({"arm": self.arm, "kind": self.kind, "text": self.text, "page": page})


@dataclass(frozen=True, kw_only=True)
class FoundRollouts:
    """A page of the rollouts that a query found."""

    samples: Samples
    found: int
    pages: int
    arms: tuple[str, ...]
    """All arms of the run's rollouts so far."""


def find_page(run_dir: Path, query: RolloutQuery) -> FoundRollouts:
    """Return the page of the rollouts of the run that pass, in order; the last page if there are fewer.

    Raises DamagedFile, or what Polars raises when a file goes away meanwhile.
    """
    shards, questions = known_shards(run_dir, "rollouts"), known_shards(run_dir, "questions")
    arms: set[str] = set()
    right = right_at(run_dir)
    frames: list[pl.DataFrame] = []
    for index in shards:
        frame = scan_with_scores(RunPaths(root=run_dir), index)
        arms |= {*frame.select(pl.col("arm_id").unique()).collect()["arm_id"]}
        matched = frame.filter(_condition(query, right, questions.get(index)))
        kind, shard = kind_of(right).alias("kind"), pl.lit(index).alias("shard")
        frames.append(matched.select("rollout_id", kind, shard).collect())
    found = pl.concat(frames) if frames else pl.DataFrame(schema=["rollout_id", "kind", "shard"])
    pages = max(1, -(-found.height // PAGE))
    chosen = found.slice((min(query.page, pages) - 1) * PAGE, PAGE)
    samples = read_samples(run_dir, chosen, shards=chosen["shard"].unique(maintain_order=True).to_list())
    return FoundRollouts(samples=samples, found=found.height, pages=pages, arms=tuple(sorted(arms)))


def find_question(run_dir: Path, example_id: str) -> tuple[QuestionSides, Samples]:
    """Return the question with its rollouts, by arm and sample. Raises ConfigError when there are none."""
    frames = [
        scan_with_scores(RunPaths(root=run_dir), index)
        .filter(pl.col("example_id") == example_id)
        .select("rollout_id", kind_of(right_at(run_dir)).alias("kind"), pl.lit(index).alias("shard"))
        .collect()
        for index in known_shards(run_dir, "rollouts")
    ]
    found = pl.concat(frames).head(MOST_SIDES) if frames else pl.DataFrame()
    if found.is_empty():
        raise ConfigError(f"the run has no rollouts of the question {example_id[:80]!r} so far. Search its rollouts")
    samples = read_samples(run_dir, found, shards=found["shard"].unique(maintain_order=True).to_list())
    return in_sides(sorted(samples.drawn, key=lambda sample: (sample.arm_id, sample.sample_index))), samples


def _condition(query: RolloutQuery, right: float, questions: Path | None) -> pl.Expr:
    wanted = pl.lit(True)
    if query.arm:
        wanted &= pl.col("arm_id") == query.arm
    if query.kind:
        wanted &= kind_of(right) == query.kind
    if query.text:
        found = pl.lit(False)
        for name in ("completion", "extracted_answer", "error"):
            found |= _holds(name, query.text).fill_null(False)
        if questions is not None:
            asking = scan_shard(questions).filter(_holds("question", query.text)).select("example_id").collect()
            found |= pl.col("example_id").is_in(asking["example_id"].implode())
        wanted &= found
    return wanted


def _holds(name: str, text: str) -> pl.Expr:
    return pl.col(name).str.to_lowercase().str.contains(text.lower(), literal=True)
