"""Defines the records of ``mismatch.json``, how far a trainer's logprobs are from the engine's; writes and reads it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.comparison.importance_ratios import RATIO_BOUNDS, RatioStatistics, SequenceRatios
from tasks.files import publish_json
from tasks.records import RunPaths
from tasks.storage.published import read_published, recorded_path

DIRECTION = "KL(engine || trainer) in nats: tokens were sampled from the engine's policy, and ratio = trainer / engine"


@dataclass(frozen=True, kw_only=True)
class TemperatureFit:
    """At which temperature the recomputed logprobs are nearest to the stored ones, over some of the tokens."""

    tokens: int
    stated: float
    """The run's temperature; 1 for a greedy run, whose logprobs are of that temperature."""
    best: float
    """The nearest of those that were tried."""
    gap_at_stated: float
    """Mean of abs(log ratio), in nats. One above 10, as of a token that is cut off, counts as 10."""
    gap_at_best: float
    tried: tuple[float, ...]
    """Ascending."""


@dataclass(frozen=True, kw_only=True)
class GapAtPositions:
    """The gap at some positions of the completions."""

    first: int
    """From 0."""
    last: int | None
    """The last one, included; None for all that follow."""
    tokens: int
    mean_gap: float | None
    """Mean of abs(log ratio), in nats; None when all are infinite."""


@dataclass(frozen=True, kw_only=True)
class ArmMismatch:
    """The gap under one arm."""

    arm_id: str
    rollouts: int
    tokens: int
    mean_gap: float | None
    """Mean of abs(log ratio), in nats; None when all are infinite."""
    prompts_differ: int
    """Prompts whose stored token ids are not those that the model's tokenizer and chat template make."""


@dataclass(frozen=True, kw_only=True)
class WorstToken:
    """One token with a large gap."""

    rollout_id: str
    arm_id: str
    position: int
    """Index in the completion, from 0."""
    token_id: int
    text: str
    before: str
    """The text of the tokens before it."""
    engine_logprob: float
    trainer_logprob: float | None
    """None for a token that the truncation cuts off."""


@dataclass(frozen=True, kw_only=True)
class MismatchReport:
    """mismatch.json."""

    run_id: str
    model: str
    """The directory of the weights that recomputed the logprobs."""
    same_weights: bool
    """Whether they are those that the run sampled from."""
    dtype: str
    device: str
    engine: str
    """The engine's version."""
    trainer: str
    """The versions of transformers and torch."""
    seed: int
    """Seed of the sample."""
    rollouts: int
    """Rollouts whose logprobs were recomputed."""
    eligible: int
    """Rollouts that could be drawn."""
    error_rows: int
    """Rollouts without a completion, left out."""
    empty_completions: int
    """Rollouts with a completion of no token, left out."""
    compared: str
    """Which distributions, in words."""
    direction: str
    full: RatioStatistics
    """As a trainer computes it: the whole softmax at the run's temperature."""
    truncated: RatioStatistics | None
    """With the run's truncation applied as well; None when it truncates nothing."""
    sequences: SequenceRatios
    """Of whole completions, as a trainer computes it."""
    temperatures: TemperatureFit
    positions: tuple[GapAtPositions, ...]
    arms: tuple[ArmMismatch, ...]
    worst: tuple[WorstToken, ...]
    """Largest gap first. Positions, arms and these are of the truncated distribution, where the run truncates."""
    notes: tuple[str, ...]
    """What else makes the logprobs differ by itself."""

    @property
    def verdict(self) -> str:
        """What the numbers say, in words."""
        full, (low, high) = self.full, RATIO_BOUNDS
        return (
            f"KL {_nats(full.kl_k3)} nats per token (k3) over {full.tokens:,} tokens; {full.outside:.2%} of the ratios "
            f"are outside {low} to {high}; the effective sample is {full.effective_sample:.1%} of the tokens"
        )

    @property
    def evidence(self) -> tuple[str, ...]:
        """What tells one cause from another, a sentence each. The causes are left to the reader."""
        fit, differing = self.temperatures, sum(arm.prompts_differ for arm in self.arms)
        truncation = self.truncated and (
            f"Truncation: with it applied, the mean gap is {_nats(self.truncated.mean_gap)} nats instead of "
            f"{_nats(self.full.mean_gap)}; tokens that the recomputation cuts off: "
            f"{self.truncated.impossible:,}."
        )
        return (
            f"Weights: {'the same files as' if self.same_weights else 'other weights than'} the run's.",
            f"Prompts: {differing:,} of {self.rollouts:,} have other token ids than this model's tokenizer and chat "
            "template make.",
            f"Temperature: of {len(fit.tried)} from {fit.tried[0]:.3g} to {fit.tried[-1]:.3g}, {fit.best:.3g} fits "
            f"best, with a mean gap of {_nats(fit.gap_at_best)} nats; it is {_nats(fit.gap_at_stated)} at the stated "
            f"{fit.stated:.3g}.",
            *((truncation,) if truncation else ()),
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "verdict": self.verdict, "evidence": self.evidence}


def publish_mismatch(report: MismatchReport, run_dir: Path) -> None:
    """Publish ``report`` as the ``mismatch.json`` of the run, in the place of an earlier one."""
    publish_json(report.to_json(), RunPaths(root=run_dir).mismatch, recorded_path)


def read_mismatch(run_dir: Path) -> MismatchReport | None:
    """Return the report in the run's ``mismatch.json``; None when there is none. Raises DamagedFile."""
    return read_published(RunPaths(root=run_dir).mismatch, MismatchReport)


def distributions(report: MismatchReport) -> Mapping[str, RatioStatistics]:
    """Return the ratios by the distribution that the trainer's logprobs are of: the rows of a table."""
    rows = {"whole softmax, as a trainer computes it": report.full}
    return rows if report.truncated is None else {**rows, "truncated as the run samples": report.truncated}


def _nats(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.3g}"
