"""Decides from the evidence which tiers hold, and what the verdict is."""

from typing import NamedTuple

from tasks.comparison.equivalence_report import TierResult, TokenComparison
from tasks.comparison.near_tie import REAL_KINDS, DivergenceKind
from tasks.comparison.paired_statistics import RewardComparison
from tasks.comparison.pairing import RowCounts
from tasks.comparison.tost import MeanInterval, minimum_questions, questions_needed
from tasks.comparison.verdict import Tier, Verdict

_WHY: dict[DivergenceKind, str] = {
    "settings": "state another temperature, top_p or seed than the baseline, although the configurations agree",
    "inconsistent": "have logprobs that do not belong to their tokens",
    "text": "have the same tokens but another text",
    "reward": "have the same text but another reward or answer",
    "cut": "end where the other run goes on",
    "shifted": "diverge where the distributions differ by more than rounding can explain",
    "wide": "diverge with a gap above the near-tie limit",
    "redrawn": "diverge where the distributions agree, so the sampler drew other random numbers",
    "unseen": "diverge at a token outside the stored top logprobs",
    "no_top_logprobs": "diverge where a run stores no top logprobs, so a near-tie cannot be shown",
}


class Decision(NamedTuple):
    """The verdict of a comparison."""

    verdict: Verdict
    reason: str
    tiers: tuple[TierResult, ...]
    questions_needed: int | None
    """Questions that would decide an inconclusive verdict; else None."""


def decide_verdict(
    *,
    rows: RowCounts,
    tokens: TokenComparison,
    rewards: RewardComparison,
    baseline_is_sample: bool,
    scored: bool,
    epsilon: float,
) -> Decision:
    """The verdict, by the rules that tasks.comparison.equivalence lists; ``scored`` says that both runs have scores."""
    real = {kind: tokens.kinds[kind] for kind in REAL_KINDS if tokens.kinds.get(kind)}
    not_compared = _not_compared(rows)
    bitwise = _bitwise(tokens, not_compared)
    numerical = _numerical(tokens, not_compared)
    statistical, outside = _statistical(rows, rewards, scored=scored, epsilon=epsilon)
    if bitwise.holds and not real:
        # what is the same needs no test of whether it is nearly so, which few questions could not show
        statistical, outside = _tier("statistical", True, "the tokens are equal, and so are the rewards"), False
    tiers = (bitwise, numerical, statistical)
    if real:
        rows_named = "; ".join(f"{count} rollouts {_WHY[kind]}" for kind, count in real.items())
        contradicted = tuple(TierResult(tier=tier.tier, holds=False, reason=rows_named) for tier in tiers)
        return Decision("different", f"{rows_named}; the worst are listed", contradicted, None)
    if unpaired := _unpaired(rows, baseline_is_sample=baseline_is_sample):
        unproven = tuple(
            TierResult(tier=tier.tier, holds=False, reason=f"{unpaired}. What both have: {tier.reason}")
            for tier in tiers
        )
        advice = "Make both runs whole (the same harvest run resumes), or compare runs over the same questions"
        return Decision("incomplete", f"{unpaired}. {advice}", unproven, None)
    if bitwise.holds:
        return Decision("bitwise", bitwise.reason, tiers, None)
    if outside:
        return Decision("different", statistical.reason, tiers, None)
    for tier in (numerical, statistical):
        if tier.holds:
            return Decision(tier.tier, tier.reason, tiers, None)
    needed = None
    if scored and rows.lost_share * rewards.reward_range < epsilon:
        needed = questions_needed(
            rewards.difference,
            epsilon=epsilon - rows.lost_share * rewards.reward_range,
            reward_range=rewards.reward_range,
        )
    advice = f" About {needed} questions would be needed." if needed else ""
    return Decision("inconclusive", statistical.reason + advice, tiers, needed)


def widened(interval: MeanInterval, rows: RowCounts, reward_range: float) -> tuple[float, float]:
    """The ends of ``interval``, widened by the most that the lost rows could hide: the whole range of rewards each.

    These are worst-case bounds for missing data (Manski 1990, Am. Econ. Rev. 80:319).
    """
    hidden = rows.lost_share * reward_range
    low, high = interval.bounds
    return low - hidden, high + hidden


def _unpaired(rows: RowCounts, *, baseline_is_sample: bool) -> str | None:
    """Which rollouts a run lacks or has too many of, in words; None when each run has what it has to have."""
    extra = rows.rows_only_in_candidate - (rows.rows_of_questions_only_in_candidate if baseline_is_sample else 0)
    found = [
        f"the {name} has {count} rollouts, and its config.json states {stated}"
        for name, count, stated in (
            ("baseline", rows.baseline, rows.baseline_stated),
            ("candidate", rows.candidate, rows.candidate_stated),
        )
        if stated not in (None, count)
    ]
    found += [
        f"the {name} has scores of {scored} of its {count} rollouts"
        for name, count, scored in (
            ("baseline", rows.baseline, rows.baseline_scored),
            ("candidate", rows.candidate, rows.candidate_scored),
        )
        if scored not in (None, count)
    ]
    if rows.groups_stop:
        # each run has the samples that its rule asked for
        new = 0 if baseline_is_sample else rows.questions_only_in_candidate
        lacking = (("candidate", rows.questions_only_in_baseline), ("baseline", new))
        found += [f"the {name} lacks {count} questions of the other run" for name, count in lacking if count]
        return "; ".join(found) or None
    if rows.rows_only_in_baseline:
        found.append(f"the candidate lacks {rows.rows_only_in_baseline} of the baseline's {rows.baseline} rollouts")
    if extra:
        found.append(f"the baseline lacks {extra} of the candidate's {rows.candidate} rollouts")
    return "; ".join(found) or None


def _not_compared(rows: RowCounts) -> str | None:
    if not rows.compared:
        return "no rollout succeeded in both runs"
    if rows.lost:
        return f"{rows.lost} rollouts of shared questions are missing, failed or unscored in one run"
    return None


def _bitwise(tokens: TokenComparison, not_compared: str | None) -> TierResult:
    if not_compared:
        return _tier("bitwise", False, not_compared)
    differing = tokens.rollouts - tokens.identical
    if differing:
        return _tier("bitwise", False, f"{differing} of {tokens.rollouts} rollouts have different tokens")
    return _tier(
        "bitwise",
        True,
        f"all {tokens.rollouts} rollouts have equal tokens; {tokens.logprobs_equal} of them have equal logprobs",
    )


def _numerical(tokens: TokenComparison, not_compared: str | None) -> TierResult:
    if not_compared:
        return _tier("numerical", False, not_compared)
    unexplained = {kind: count for kind, count in tokens.kinds.items() if kind != "near_tie"}
    if unexplained:
        reason = "; ".join(f"{count} rollouts {_WHY[kind]}" for kind, count in unexplained.items())  # type: ignore[index]
        return _tier("numerical", False, reason)
    return _tier("numerical", True, f"all {tokens.rollouts - tokens.identical} first divergences are near-ties")


def _statistical(
    rows: RowCounts, rewards: RewardComparison, *, scored: bool, epsilon: float
) -> tuple[TierResult, bool]:
    """The tier, and whether the interval lies outside +-epsilon."""
    if not scored or not rewards.rollouts:
        return _tier("statistical", False, "no rollout has a reward in both runs: score both, then compare."), False
    difference = rewards.difference
    low, high = widened(difference, rows, rewards.reward_range)
    measured = (
        f"the mean reward differs by {difference.mean:+.4f}, 90% interval [{low:+.4f}, {high:+.4f}], "
        f"over {difference.n} questions"
    )
    if rows.lost:
        measured += f" (widened for {rows.lost} lost rollouts)"
    fewest = minimum_questions(epsilon, rewards.reward_range)
    if difference.n < fewest:
        return _tier("statistical", False, f"{measured}; fewer than {fewest} cannot show +-{epsilon:g}"), False
    if -epsilon < low and high < epsilon:
        return _tier("statistical", True, f"{measured}: inside +-{epsilon:g}"), False
    if low >= epsilon or high <= -epsilon:
        return _tier("statistical", False, f"{measured}: outside +-{epsilon:g}"), True
    return _tier("statistical", False, f"{measured}: not inside +-{epsilon:g}, and not outside it"), False


def _tier(tier: Tier, holds: bool, reason: str) -> TierResult:
    return TierResult(tier=tier, holds=holds, reason=reason)
