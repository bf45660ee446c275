"""Compares a candidate run with its baseline: are the outputs the same, and in which sense?

The comparison joins the rollouts of two runs by (example_id, arm_id, sample_index). It makes the claims below. The test
of each claim is in tests/tasks/comparison/test_equivalence.py unless another file is named:

1. Two runs are refused when their model, tokenizer, chat template, arms, sampling, seed or scorer differ, when partners
   have different prompts or ground truths, and when the runs share no rollout. The error gives both values of a
   setting. The report lists every other difference as a tested setting.
   ``test_comparability.py``, ``test_pairing.py``
2. Every row without a partner is counted. ``incomplete``: a run has other rows than its ``config.json`` states, a
   scored run has rows without a score, or one run has rows that the other lacks. The candidate may have more questions
   than a baseline that states fewer. Rows that failed or have no reward in one run alone rule out the two exact tiers
   and widen the reward interval by the most that they could hide. ``test_rows_of_one_run_alone_are_incomplete``,
   ``test_a_stated_sample_stands_for_its_questions``, ``test_lost_rows_are_counted_and_weaken_the_verdict``
3. ``bitwise``: every rollout that succeeded in both runs has the same completion_ids. Equal logprobs are reported
   separately. Then the weaker tiers hold too, at any size. ``test_equal_tokens_are_bitwise``,
   ``test_a_run_and_itself_are_the_same_in_every_sense``
4. ``numerical``: floating point explains the first token that differs, after the same text. Each run's token is among
   the other's stored top-k, and the gap is at most the near-tie limit (tasks.comparison.near_tie derives the gap for
   greedy and for sampled tokens). ``test_rounding_is_numerical``
5. ``statistical``: two one-sided tests put the mean reward difference per question inside +-epsilon at level 0.05
   (tasks.comparison.tost). At a true difference of epsilon this is wrong at most 5% of the time.
   ``test_statistical_without_top_logprobs``,
   ``test_tost.py::test_false_equivalence_at_the_margin_is_at_most_five_percent``
6. ``inconclusive``: neither equivalence nor a difference is shown. The report says how many questions are needed.
   "Not significant" is never called equivalent. ``test_too_few_questions_are_inconclusive``
7. ``different``: divergences are real, or the reward interval lies outside +-epsilon. One rollout whose
   distribution rounding cannot explain is enough, and the report names it. ``test_tampering_is_different``,
   ``test_a_worse_candidate_is_different``
8. A real divergence overrides ``incomplete`` and every tier, and an interval outside +-epsilon overrides
   ``numerical``. ``test_tampering_is_different``, ``test_a_reward_shift_overrides_near_ties``
9. When the number format (dtype, quantization) is tested, shifted distributions are expected, and only the rewards
   decide. ``test_rewards_decide_for_another_number_format``
10. Without stored top logprobs ``numerical`` cannot be shown, and only a contradiction reveals a swapped reply:
    logprobs that do not fit the tokens, or another text or reward for the same tokens.
    ``test_tampering_is_different``
11. A measured noise floor replaces the default near-tie limit, and the report says which was used. Even a small
    floor does not turn rounding into a real difference. ``test_a_measured_floor_is_used_and_named``,
    ``test_a_small_floor_makes_no_rounding_a_real_difference``
12. Token lists are compared by their 64-bit hashes. Only lists that differ are read, shard by shard, so memory grows
    with the number of rollouts, not of tokens. ``tests/bench/bench_compare.py``
"""

from pathlib import Path

import polars as pl

from tasks.comparison.comparability import check_comparable
from tasks.comparison.divergence import find_divergences
from tasks.comparison.equivalence_report import (
    Divergence,
    EquivalenceReport,
    NoiseLimits,
    TokenComparison,
    publish_equivalence,
)
from tasks.comparison.near_tie import REAL_FACTOR, default_limit
from tasks.comparison.noise_floor import NoiseFloor
from tasks.comparison.paired_statistics import compare_finish_reasons, compare_lengths, compare_rewards
from tasks.comparison.pairing import Pairing, pair_rollouts
from tasks.comparison.rollout_index import index_rollouts
from tasks.comparison.tier_decision import decide_verdict
from tasks.comparison.verdict import DEFAULT_EPSILON, TIERS, Tier
from tasks.comparison.worst_examples import worst_examples
from tasks.errors import ConfigError
from tasks.records import OWN_SCORES, RunPaths
from tasks.storage.score_sets import right_at
from tasks.subprocess_call import call_in_subprocess

MOST_DIVERGENCES = 50
"""Most divergences that a report lists one by one. It counts them all."""


def compare_runs(
    baseline: Path,
    candidate: Path,
    *,
    epsilon: float = DEFAULT_EPSILON,
    noise_floor: NoiseFloor | None = None,
    require: Tier = "statistical",
    seed: int = 0,
    scores: tuple[str, str] = (OWN_SCORES, OWN_SCORES),
) -> EquivalenceReport:
    """The comparison of two run directories; the same arguments give the same report.

    ``epsilon`` is the largest difference of the mean reward that counts as none, in units of reward; choose it before
    the runs. ``require`` is the weakest tier that the candidate must reach. ``seed`` seeds the bootstrap.
    ``scores`` are the folders of the scores of both. Raises ConfigError when the runs cannot be compared.
    """
    if not 0 < epsilon < 1:
        raise ConfigError(f"epsilon is {epsilon}; it must be above 0 and below 1, in units of reward")
    if require not in TIERS:
        raise ConfigError(f"require is {require!r}; it must be one of {', '.join(TIERS)}")
    comparability = check_comparable(baseline, candidate)
    first, second = (
        index_rollouts(RunPaths(root=run, scores_folder=folder))
        for run, folder in zip((baseline, candidate), scores, strict=True)
    )
    pairing = pair_rollouts(first, second)
    limits = _limits(pairing, noise_floor, number_format_differs=comparability.number_format_differs)
    divergences = find_divergences(
        pairing,
        near_tie_limit=limits.near_tie_limit,
        real_limit=float("inf") if limits.real_limit is None else limits.real_limit,
    ).sort("kind", "gap", descending=[False, True], nulls_last=True, maintain_order=True)
    tokens = _compare_tokens(pairing.frame, divergences)
    rewards = compare_rewards(pairing.frame, seed=seed, right_at=right_at(baseline, scores[0]))
    decision = decide_verdict(
        rows=pairing.counts,
        tokens=tokens,
        rewards=rewards,
        baseline_is_sample=comparability.baseline_is_sample,
        scored=bool(pairing.baseline.scorers and pairing.candidate.scorers),
        epsilon=epsilon,
    )
    return EquivalenceReport(
        verdict=decision.verdict,
        reason=decision.reason,
        required=require,
        epsilon=epsilon,
        seed=seed,
        baseline=comparability.baseline,
        candidate=comparability.candidate,
        same_dataset=comparability.same_dataset,
        tested=comparability.tested,
        rows=pairing.counts,
        limits=limits,
        tiers=decision.tiers,
        questions_needed=decision.questions_needed,
        tokens=tokens,
        rewards=rewards,
        lengths=compare_lengths(pairing.frame),
        finish_reasons=compare_finish_reasons(pairing.frame),
        examples=worst_examples(pairing, divergences),
        baseline_is_sample=comparability.baseline_is_sample,
    )


def validate_run(
    candidate_dir: Path,
    baseline_dir: Path,
    *,
    epsilon: float = DEFAULT_EPSILON,
    noise_floor: NoiseFloor | None = None,
    require: Tier = "statistical",
    seed: int = 0,
    scores: tuple[str, str] = (OWN_SCORES, OWN_SCORES),
) -> EquivalenceReport:
    """Compare a run with its baseline and publish the report as the run's ``equivalence.json``.

    Returns the report, also when the verdict is below ``require``: call ``raise_if_below`` after the data is uploaded.
    Raises ConfigError when the runs cannot be compared.
    """
    report = compare_runs(
        baseline_dir,
        candidate_dir,
        epsilon=epsilon,
        noise_floor=noise_floor,
        require=require,
        seed=seed,
        scores=scores,
    )
    publish_equivalence(report, candidate_dir, scores[1])
    return report


def validate_in_subprocess(
    candidate_dir: Path,
    baseline_dir: Path,
    *,
    epsilon: float,
    noise_floor: NoiseFloor | None,
    require: Tier,
    scores: tuple[str, str] = (OWN_SCORES, OWN_SCORES),
) -> EquivalenceReport:
    """``validate_run`` in a subprocess, so that the caller's memory does not grow.

    The subprocess logs to ``logs/validate.log`` of the candidate. Raises the errors of ``validate_run``, and
    HarvestError when the subprocess fails.
    """
    paths = RunPaths(root=candidate_dir)
    return call_in_subprocess(
        validate_run,
        f"comparison of {paths.run_id} with {baseline_dir}",
        paths.logs / "validate.log",
        candidate_dir,
        baseline_dir,
        epsilon=epsilon,
        noise_floor=noise_floor,
        require=require,
        scores=scores,
    )


def _limits(pairing: Pairing, floor: NoiseFloor | None, *, number_format_differs: bool) -> NoiseLimits:
    dtypes = pairing.baseline.dtypes | pairing.candidate.dtypes
    names = ", ".join(sorted(dtypes))
    if floor is None:
        limit, source = default_limit(dtypes), f"default of {names}"
    elif number_format_differs or floor.dtype == names:
        limit, source = floor.near_tie_limit, f"measured between {' and '.join(floor.source_run_ids)}"
        if not floor.measured:
            source = (
                f"default of {floor.dtype}, as only {floor.divergences} rollouts of "
                f"{' and '.join(floor.source_run_ids)} differed"
            )
    else:
        raise ConfigError(
            f"the noise floor was measured in {floor.dtype}, the runs are in {names}. "
            "Measure one with the runs' dtype, or compare without a noise floor"
        )
    return NoiseLimits(
        near_tie_limit=limit,
        # a floor is measured at first divergences alone, and rounding can move the distributions of a rollout further;
        # so the limit above which rounding is ruled out is never below the default
        real_limit=None if number_format_differs else REAL_FACTOR * max(limit, default_limit(dtypes)),
        source=source,
        floor=floor,
    )


def _compare_tokens(pairs: pl.DataFrame, divergences: pl.DataFrame) -> TokenComparison:
    same = pairs.filter(pl.col("base_ids") == pl.col("cand_ids"))
    stored = pl.col("base_mean_logprob").is_not_null() & pl.col("cand_mean_logprob").is_not_null()
    logprobs_equal, largest = same.select(
        equal=((pl.col("base_logprobs") == pl.col("cand_logprobs")) & stored).sum(),
        largest=(pl.col("base_mean_logprob") - pl.col("cand_mean_logprob")).abs().max(),
    ).row(0)
    kinds = divergences.group_by("kind").len().sort("kind")
    gaps = divergences["gap"].drop_nulls()
    gaps = gaps.filter(gaps.is_finite())
    quantiles = {"50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0} if gaps.len() else {}
    return TokenComparison(
        rollouts=pairs.height,
        identical=same.height,
        logprobs_equal=int(logprobs_equal),
        mean_logprob_difference=None if largest is None else float(largest),
        kinds=dict(kinds.with_columns(pl.col("kind").cast(pl.String)).iter_rows()),
        gap_quantiles={name: float(gaps.quantile(level, "linear") or 0.0) for name, level in quantiles.items()},
        worst=tuple(Divergence(**row) for row in divergences.head(MOST_DIVERGENCES).drop("pair").iter_rows(named=True)),
    )
