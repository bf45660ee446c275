"""Defines the records of ``equivalence.json``, the result of a comparison, and writes and reads the file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.comparison.comparability import RunIdentity, SettingDifference
from tasks.comparison.near_tie import DivergenceKind
from tasks.comparison.noise_floor import NoiseFloor
from tasks.comparison.paired_statistics import FinishReasonCount, LengthComparison, RewardComparison
from tasks.comparison.pairing import RowCounts
from tasks.comparison.verdict import TIERS, Tier, Verdict
from tasks.errors import NotEquivalent
from tasks.files import publish_json
from tasks.records import OWN_SCORES, RunPaths
from tasks.storage.published import read_published, recorded_path


@dataclass(frozen=True, kw_only=True)
class TierResult:
    """Whether one tier holds."""

    tier: Tier
    """The tier's name."""
    holds: bool
    """Whether the tier holds."""
    reason: str
    """Why the tier holds or does not hold, in words."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """One rollout that differs between the runs. Where no token differs, all fields after ``kind`` are None."""

    example_id: str
    """Id of the question."""
    arm_id: str
    """Id of the arm."""
    sample_index: int
    """Index of the sample within question and arm, from 0."""
    kind: DivergenceKind
    """Why the rollout differs."""
    position: int | None
    """Index of the first completion token that differs, from 0."""
    baseline_token: int | None
    """The baseline's token id there; -1 when its completion ends before."""
    candidate_token: int | None
    """The candidate's token id there; -1 when its completion ends before."""
    baseline_logprob: float | None
    """The logprob of ``baseline_token``, in nats; None when it is not stored."""
    candidate_logprob: float | None
    """The logprob of ``candidate_token``, in nats; None when it is not stored."""
    gap: float | None
    """How far the log-odds of the two tokens moved between the runs, in nats; None when it is unknown."""
    drift: float | None
    """Largest difference of a logprob among the top-k that both runs store, in nats; None when it is unknown."""
    limit: float | None
    """The near-tie limit at the rollout's temperature, in nats."""


@dataclass(frozen=True, kw_only=True)
class TokenComparison:
    """Compares the tokens of the rollouts that succeeded in both runs."""

    rollouts: int
    """Rollouts that succeeded in both runs."""
    identical: int
    """Rollouts with equal completion_ids."""
    logprobs_equal: int
    """Rollouts with equal completion_ids whose logprobs are equal to the last bit."""
    mean_logprob_difference: float | None
    """Largest difference of a rollout's mean logprob, with equal tokens, in nats; None without logprobs."""
    kinds: Mapping[str, int]
    """Number of rollouts that differ, by kind."""
    gap_quantiles: Mapping[str, float]
    """Quantiles of the gaps, in nats, under "50%", "90%", "99%" and "max"; empty when no gap is known."""
    worst: tuple[Divergence, ...]
    """The worst rollouts that differ, worst first."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """The same rollout in both runs, side by side."""

    example_id: str
    """Id of the question."""
    arm_id: str
    """Id of the arm."""
    sample_index: int
    """Index of the sample within question and arm, from 0."""
    why: str
    """Why the rollout is shown: the kind of its divergence and the token, or a changed reward."""
    baseline_text: str
    """The baseline's completion around the first character that differs."""
    candidate_text: str
    """The candidate's completion around the first character that differs."""
    baseline_reward: float | None
    """None when the baseline has no reward for it."""
    candidate_reward: float | None
    """None when the candidate has no reward for it."""
    baseline_answer: str | None
    """The answer that the scorer extracted in the baseline; None when there is none."""
    candidate_answer: str | None
    """The answer that the scorer extracted in the candidate; None when there is none."""
    ground_truth: str | None
    """The ground truth of the question."""


@dataclass(frozen=True, kw_only=True)
class NoiseLimits:
    """The limits that tell rounding from a real difference."""

    near_tie_limit: float
    """Largest gap that rounding explains, in nats at temperature 1."""
    real_limit: float | None
    """A shift above this is a real difference, in nats at temperature 1. None when the number format is tested: then
    no shift counts as real by itself."""
    source: str
    """The origin of ``near_tie_limit``, in words."""
    floor: NoiseFloor | None
    """The noise floor that was used; None when the default of the dtype was used."""


@dataclass(frozen=True, kw_only=True)
class EquivalenceReport:
    """The verdict of a comparison with all its evidence."""

    verdict: Verdict
    """``different`` when a difference is shown; else ``incomplete`` when a run lacks rollouts or has extra ones; else
    the strongest tier that holds, or ``inconclusive``."""
    reason: str
    """Why the verdict was reached, in words."""
    required: Tier
    """The weakest tier that the candidate must reach."""
    epsilon: float
    """Largest difference of the mean reward that counts as none, in units of reward."""
    seed: int
    """Seed of the bootstrap."""
    baseline: RunIdentity
    """The run that the candidate is compared with."""
    candidate: RunIdentity
    """The run whose equivalence is in question."""
    same_dataset: bool
    """False when one run has other questions too, such as a sample baseline."""
    tested: tuple[SettingDifference, ...]
    """Settings that differ between the runs. The comparison tests them."""
    rows: RowCounts
    """How many rows were compared, failed or lost."""
    limits: NoiseLimits
    """The limits that tell rounding from a real difference."""
    tiers: tuple[TierResult, ...]
    """The result of each tier, strongest first."""
    questions_needed: int | None
    """Questions that would decide an inconclusive verdict. None for every other verdict, and when no number would."""
    tokens: TokenComparison
    """Evidence of the tiers ``bitwise`` and ``numerical``."""
    rewards: RewardComparison
    """Evidence of the tier ``statistical``."""
    lengths: LengthComparison
    """Completion lengths. They do not enter the verdict."""
    finish_reasons: tuple[FinishReasonCount, ...]
    """One entry per finish reason, by name. They do not enter the verdict."""
    examples: tuple[Example, ...]
    """The worst rollouts, worst first."""
    baseline_is_sample: bool = False
    """True when the baseline was made of fewer questions than the candidate, by the configurations of both."""

    def meets(self, require: Tier) -> bool:
        """True when the verdict is ``require`` or a stronger tier."""
        return self.verdict in TIERS[: TIERS.index(require) + 1]

    def raise_if_below(self, require: Tier) -> None:
        """Raise NotEquivalent, with the reason, unless the verdict meets ``require``."""
        if not self.meets(require):
            raise NotEquivalent(
                f"{self.candidate.run_id} against {self.baseline.run_id}: the verdict is {self.verdict}, "
                f"{require} was required. {self.reason}"
            )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; an infinite number or NaN becomes null."""
        value: dict[str, Any] = _jsonable({**asdict(self), "meets_required": self.meets(self.required)})
        value["rewards"]["flips"]["rate"] = self.rewards.flips.rate
        return value


def publish_equivalence(report: EquivalenceReport, run_dir: Path, scores: str = OWN_SCORES) -> None:
    """Publish ``report`` as the ``equivalence.json`` of the candidate, for its scores in the folder ``scores``."""
    publish_json(report.to_json(), RunPaths(root=run_dir, scores_folder=scores).equivalence, recorded_path)


def read_equivalence(run_dir: Path, scores: str = OWN_SCORES) -> EquivalenceReport | None:
    """The report in the ``equivalence.json`` of a run; None when the run was not compared. Raises DamagedFile."""
    return read_published(RunPaths(root=run_dir, scores_folder=scores).equivalence, EquivalenceReport)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
