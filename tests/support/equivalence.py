"""An equivalence report with a given verdict, for tests of what reads one."""

from tasks.comparison.comparability import RunIdentity
from tasks.comparison.equivalence_report import EquivalenceReport, NoiseLimits, TokenComparison
from tasks.comparison.paired_statistics import Flips, LengthComparison, RewardComparison
from tasks.comparison.pairing import RowCounts
from tasks.comparison.tost import MeanInterval
from tasks.comparison.verdict import Verdict

_UNBOUNDED = MeanInterval(mean=0.0, low=None, high=None, standard_deviation=0.0, n=1)


def equivalence_report(verdict: Verdict) -> EquivalenceReport:
    """A report of one rollout of one question."""
    return EquivalenceReport(
        verdict=verdict,
        reason="as the test says",
        required="statistical",
        epsilon=0.02,
        seed=0,
        baseline=RunIdentity(run_id="before", path="runs/before", fingerprint="1"),
        candidate=RunIdentity(run_id="after", path="runs/after", fingerprint="2"),
        same_dataset=True,
        tested=(),
        rows=RowCounts(
            baseline=1,
            candidate=1,
            compared=1,
            questions_compared=1,
            questions_only_in_baseline=0,
            questions_only_in_candidate=0,
            rows_only_in_baseline=0,
            rows_only_in_candidate=0,
            failed_in_both=0,
            failed_only_in_baseline=0,
            failed_only_in_candidate=0,
            unscored_only_in_baseline=0,
            unscored_only_in_candidate=0,
            lost=0,
            lost_share=0.0,
        ),
        limits=NoiseLimits(near_tie_limit=0.5, real_limit=1.0, source="default of bfloat16", floor=None),
        tiers=(),
        questions_needed=None,
        tokens=TokenComparison(
            rollouts=1,
            identical=1,
            logprobs_equal=1,
            mean_logprob_difference=0.0,
            kinds={},
            gap_quantiles={},
            worst=(),
        ),
        rewards=RewardComparison(
            rollouts=1,
            baseline_mean=1.0,
            candidate_mean=1.0,
            reward_range=1.0,
            difference=_UNBOUNDED,
            arms=(),
            flips=Flips(
                rollouts=1,
                correct_only_in_baseline=0,
                correct_only_in_candidate=0,
                answers_changed=0,
                mcnemar_p=1.0,
                clustered_p=1.0,
            ),
        ),
        lengths=LengthComparison(baseline_mean=8.0, candidate_mean=8.0, difference=_UNBOUNDED),
        finish_reasons=(),
        examples=(),
    )
