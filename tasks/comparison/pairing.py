"""Pairs the rollouts of two runs, and counts every row that has no partner.

A comparison of the rows that both runs have could hide the rows that one run lost, so those are counted too.
"""

from dataclasses import dataclass, replace

import polars as pl

from tasks.comparison.rollout_index import RolloutIndex, check_same_scorer
from tasks.errors import ConfigError
from tasks.records import ROLLOUT_KEY


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Counts the rows of both runs; one row is one rollout.

    A question of the candidate alone is expected when the baseline is a sample. A row of one run alone is lost when
    both runs have its question. A row that failed, or has no reward, in one run alone is lost too.
    """

    baseline: int
    """Rows of the baseline."""
    candidate: int
    """Rows of the candidate."""
    compared: int
    """Rows that succeeded in both runs."""
    questions_compared: int
    """Questions that both runs have."""
    questions_only_in_baseline: int
    """Questions of the baseline alone."""
    questions_only_in_candidate: int
    """Questions of the candidate alone."""
    rows_only_in_baseline: int
    """Rows of the baseline alone."""
    rows_only_in_candidate: int
    """Rows of the candidate alone."""
    failed_in_both: int
    """Shared rows that failed in both runs."""
    failed_only_in_baseline: int
    """Shared rows that failed in the baseline alone."""
    failed_only_in_candidate: int
    """Shared rows that failed in the candidate alone."""
    unscored_only_in_baseline: int
    """Compared rows without a reward in the baseline alone; 0 when a run is not scored."""
    unscored_only_in_candidate: int
    """Compared rows without a reward in the candidate alone; 0 when a run is not scored."""
    lost: int
    """Rows of shared questions that one run has and that cannot be compared. Where the groups of a run stop by a rule,
    these are only those that both runs have."""
    lost_share: float
    """``lost`` as a share (of 1) of all rows of the shared questions."""
    rows_of_questions_only_in_candidate: int = 0
    """Rows of the candidate alone whose question the baseline does not have."""
    baseline_stated: int | None = None
    """Rows that the baseline was made to have, by its ``config.json``; None when that states none."""
    candidate_stated: int | None = None
    """Rows that the candidate was made to have, by its ``config.json``; None when that states none."""
    baseline_scored: int | None = None
    """Rows of the baseline that its scores have, with a reward or without; None when neither run is scored."""
    candidate_scored: int | None = None
    """Rows of the candidate that its scores have, with a reward or without; None when neither run is scored."""
    groups_stop: bool = False
    """True when the groups of a run stop by a rule, so that one run alone may have further samples of a group."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The paired rollouts of two runs."""

    baseline: RolloutIndex
    candidate: RolloutIndex
    frame: pl.DataFrame
    """One row per rollout that succeeded in both runs: ``pair``, ROLLOUT_KEY, and the columns of both indices with the
    prefixes ``base_`` and ``cand_``."""
    counts: RowCounts


def pair_rollouts(baseline: RolloutIndex, candidate: RolloutIndex) -> Pairing:
    """The rollouts of two runs, joined by ROLLOUT_KEY.

    Raises ConfigError when no row has a partner, when partners differ in prompt or ground truth, or when different
    scorers scored the runs.
    """
    check_same_scorer((baseline.paths.root, baseline.scorers), (candidate.paths.root, candidate.scorers))
    joined = _prefixed(baseline, "base_").join(
        _prefixed(candidate, "cand_"), on=ROLLOUT_KEY, how="full", coalesce=True, maintain_order="left_right"
    )
    both = joined.filter(pl.col("base_row").is_not_null() & pl.col("cand_row").is_not_null())
    if both.is_empty():
        raise ConfigError(
            f"{baseline.paths.root} and {candidate.paths.root} share no rollout: no ({', '.join(ROLLOUT_KEY)}) is in "
            f"both. They have different questions; compare runs over the same dataset"
        )
    succeeded = both.filter(~pl.col("base_failed") & ~pl.col("cand_failed"))
    _check_questions(baseline, candidate, succeeded)
    is_scored = bool(baseline.scorers or candidate.scorers)
    return Pairing(
        baseline=baseline,
        candidate=candidate,
        frame=succeeded.with_row_index("pair"),
        counts=replace(
            _count(
                # a group that stopped sooner in one run has lost nothing there
                both if baseline.groups_stop or candidate.groups_stop else joined,
                joined,
                both,
                succeeded,
                scored=bool(baseline.scorers and candidate.scorers),
            ),
            baseline_stated=baseline.stated,
            candidate_stated=candidate.stated,
            baseline_scored=baseline.scored if is_scored else None,
            candidate_scored=candidate.scored if is_scored else None,
            groups_stop=baseline.groups_stop or candidate.groups_stop,
        ),
    )


def _prefixed(index: RolloutIndex, prefix: str) -> pl.DataFrame:
    return index.frame.rename(lambda name: name if name in ROLLOUT_KEY else prefix + name)


def _check_questions(baseline: RolloutIndex, candidate: RolloutIndex, succeeded: pl.DataFrame) -> None:
    for name, what in (("prompt", "prompt tokens"), ("gold", "ground truth")):
        other = succeeded.filter(pl.col(f"base_{name}") != pl.col(f"cand_{name}"))
        if other.height:
            key = ", ".join(map(str, other.select(ROLLOUT_KEY).row(0)))
            raise ConfigError(
                f"{other.height} of {succeeded.height} rollouts that {baseline.paths.root} and "
                f"{candidate.paths.root} share differ in their {what}, such as ({key}). Equal ids must mean equal "
                "questions: compare runs over the same dataset, arms and chat template"
            )


def _count(
    expected: pl.DataFrame, joined: pl.DataFrame, both: pl.DataFrame, succeeded: pl.DataFrame, *, scored: bool
) -> RowCounts:
    shared_questions = both.select(pl.col("example_id").unique())
    shared_rows = expected.select("example_id").join(shared_questions, on="example_id", how="semi").height
    questions = {
        side: joined.filter(pl.col(f"{side}_row").is_not_null())["example_id"].n_unique() for side in ("base", "cand")
    }
    unscored = [pl.col(f"{side}_reward").is_null() & ~pl.col(f"{side}_failed") for side in ("base", "cand")]
    no_score = succeeded.select(
        base=(unscored[0] & pl.col("cand_reward").is_not_null()).sum(),
        cand=(unscored[1] & pl.col("base_reward").is_not_null()).sum(),
    ).row(0)
    failed = both.select(
        both=(pl.col("base_failed") & pl.col("cand_failed")).sum(),
        base=(pl.col("base_failed") & ~pl.col("cand_failed")).sum(),
        cand=(~pl.col("base_failed") & pl.col("cand_failed")).sum(),
    ).row(0)
    lost = shared_rows - both.height + failed[1] + failed[2] + (sum(no_score) if scored else 0)
    return RowCounts(
        baseline=int(joined["base_row"].count()),
        candidate=int(joined["cand_row"].count()),
        compared=succeeded.height,
        questions_compared=shared_questions.height,
        questions_only_in_baseline=questions["base"] - shared_questions.height,
        questions_only_in_candidate=questions["cand"] - shared_questions.height,
        rows_only_in_baseline=int(joined["cand_row"].null_count()),
        rows_only_in_candidate=int(joined["base_row"].null_count()),
        failed_in_both=failed[0],
        failed_only_in_baseline=failed[1],
        failed_only_in_candidate=failed[2],
        unscored_only_in_baseline=no_score[0] if scored else 0,
        unscored_only_in_candidate=no_score[1] if scored else 0,
        lost=lost,
        lost_share=lost / shared_rows,
        rows_of_questions_only_in_candidate=joined.filter(pl.col("base_row").is_null())
        .join(shared_questions, on="example_id", how="anti")
        .height,
    )
