"""The result of a comparison: the records of ``equivalence.json``, and the functions that write and read it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.comparison.comparability import RunIdentity, SettingDifference
from tasks.comparison.near_tie import DivergenceKind
from tasks.comparison.noise_floor import NoiseFloor
from tasks.comparison.paired_statistics import FinishReasonCount, LengthComparison, RewardComparison
from tasks.comparison.pairing import RowCounts
from tasks.errors import NotEquivalent
from tasks.files import publish_json, read_record
from tasks.records import RunPaths

Tier = Literal["bitwise", "numerical", "statistical"]
Verdict = Literal["bitwise", "numerical", "statistical", "inconclusive", "different"]
TIERS: tuple[Tier, ...] = ("bitwise", "numerical", "statistical")
"""Strongest first: a tier satisfies a requirement for itself and for every later one."""


@dataclass(frozen=True, kw_only=True)
class TierResult:
    """Whether one tier holds, and the reason in words."""

    tier: Tier
    holds: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """One rollout that differs. ``position`` counts completion tokens from 0, a token of -1 stands for the end, and
    ``gap``, ``drift`` and ``limit`` are in nats; see tasks.comparison.near_tie."""

    example_id: str
    arm_id: str
    sample_index: int
    kind: DivergenceKind
    position: int | None
    baseline_token: int | None
    candidate_token: int | None
    baseline_logprob: float | None
    candidate_logprob: float | None
    gap: float | None
    drift: float | None
    limit: float | None


@dataclass(frozen=True, kw_only=True)
class TokenComparison:
    """Tokens of the compared rollouts."""

    rollouts: int
    identical: int
    """Rollouts with equal completion_ids."""
    logprobs_equal: int
    """Of these, those whose logprobs are equal to the last bit."""
    mean_logprob_difference: float | None
    """Largest difference of a rollout's mean logprob, over rollouts with equal tokens, in nats."""
    kinds: Mapping[str, int]
    """Rollouts that differ, by kind."""
    gap_quantiles: Mapping[str, float]
    """Gaps of the rollouts that differ: 50%, 90%, 99% and the largest, in nats."""
    worst: tuple[Divergence, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """The same rollout in both runs, side by side; texts are cut around where they part."""

    example_id: str
    arm_id: str
    sample_index: int
    why: str
    baseline_text: str
    candidate_text: str
    baseline_reward: float | None
    candidate_reward: float | None
    baseline_answer: str | None
    candidate_answer: str | None
    ground_truth: str | None


@dataclass(frozen=True, kw_only=True)
class NoiseLimits:
    """The limits below which a difference counted as rounding, in nats at temperature 1."""

    near_tie_limit: float
    real_limit: float | None
    """None when the number format is what is tested: then no shift of the log-odds counts as real by itself."""
    source: str
    """Where ``near_tie_limit`` comes from, in words."""
    floor: NoiseFloor | None
    """The measured noise floor that was used; None when the default of the dtype was."""


@dataclass(frozen=True, kw_only=True)
class EquivalenceReport:
    """The verdict of a comparison with all its evidence."""

    verdict: Verdict
    reason: str
    required: Tier
    """The weakest tier that the run had to reach."""
    epsilon: float
    """Largest difference of the mean reward that counted as none."""
    seed: int
    """Of the bootstrap."""
    baseline: RunIdentity
    candidate: RunIdentity
    same_dataset: bool
    """False when one run has other questions too, such as a sample baseline."""
    tested: tuple[SettingDifference, ...]
    """Settings that differ between the runs: what the comparison tests."""
    rows: RowCounts
    limits: NoiseLimits
    tiers: tuple[TierResult, ...]
    questions_needed: int | None
    """With an inconclusive verdict: questions that would decide; None when no number of questions would."""
    tokens: TokenComparison
    rewards: RewardComparison
    lengths: LengthComparison
    finish_reasons: tuple[FinishReasonCount, ...]
    examples: tuple[Example, ...]

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
        """The report as JSON values; a number without a finite value is null."""
        value: dict[str, Any] = _jsonable({**asdict(self), "meets_required": self.meets(self.required)})
        value["rewards"]["flips"]["rate"] = self.rewards.flips.rate
        return value


def publish_equivalence(report: EquivalenceReport, run_dir: Path) -> None:
    """Publish ``report`` as the ``equivalence.json`` of the candidate's run directory."""
    publish_json(report.to_json(), RunPaths(root=run_dir).equivalence)


def read_equivalence(run_dir: Path) -> EquivalenceReport | None:
    """The report in the ``equivalence.json`` of a run; None for a run that was not compared. Raises DamagedFile."""
    return read_record(RunPaths(root=run_dir).equivalence, EquivalenceReport)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
