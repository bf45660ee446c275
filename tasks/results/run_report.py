"""Defines report.json, the result of a finished run, as one typed record.

Only this module writes and reads the record, so that its fields are declared once.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from tasks.comparison.comparability import RunIdentity
from tasks.comparison.verdict import Verdict
from tasks.files import publish_json
from tasks.generation.generation_log import GenerationSession
from tasks.generation.rung_state import RungChange
from tasks.node.engine_caches import StartKind, coldest
from tasks.node.telemetry_summary import TelemetrySummary
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.arm_contrasts import ArmContrast
from tasks.results.metrics import ArmMetrics
from tasks.results.outcome import Outcome
from tasks.results.stopping_report import ArmPassRates, StoppingReport
from tasks.storage.published import read_published, recorded_path


@dataclass(frozen=True, kw_only=True)
class ErrorCount:
    """One kind of row without a reward: an error row, or one that the scorer gave none."""

    error: str
    """The message, with N in place of every number; "no reward: " and the extraction method for what was not scored."""
    count: int


@dataclass(frozen=True, kw_only=True)
class GenerationTotals:
    """All generation sessions of a run together."""

    seconds: float
    """From the first admitted to the last finished rollout of each session."""
    start_seconds: float
    """Time spent starting engines."""
    tokens: int
    """Generated completion tokens, including those of lost attempts."""
    tokens_per_second: float | None
    """``tokens / seconds``; None when nothing was generated."""
    restarts: int
    """Engines lost to failures."""
    sessions: tuple[GenerationSession, ...]

    @property
    def start_kind(self) -> StartKind | None:
        """How the engines started: cold if one did in any session; None in a run of an earlier version."""
        return coldest(session.start_kind for session in self.sessions)


@dataclass(frozen=True, kw_only=True)
class BatchInForce:
    """The question batch that the rollouts were generated under, as their rows have it."""

    stated: int | Literal["auto"]
    """By the profile or the command."""
    least: int
    """Fewest questions in flight per replica when a rollout was finished."""
    most: int
    """Most of them."""
    sequences: int
    """Largest max_num_seqs."""
    reason: str | None
    """Why a batch was chosen, by preflight; None when it was stated."""


@dataclass(frozen=True, kw_only=True)
class EquivalenceOutcome:
    """The part of equivalence.json that a summary shows."""

    verdict: Verdict
    reason: str
    baseline: RunIdentity


@dataclass(frozen=True, kw_only=True)
class MismatchOutcome:
    """The part of mismatch.json that a summary shows."""

    verdict: str
    same_weights: bool
    """Whether the logprobs were recomputed with the run's own weights."""
    kl_k3: float | None
    """In nats per token, of the whole softmax, as are the following; None when it is infinite."""
    outside: float
    """Share of the tokens whose importance ratio a trainer would clip."""
    effective_sample: float
    """Share of the tokens."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """report.json."""

    run_id: str
    run_dir: str
    """Where the run is, as it was given to the command. In the file it is ".", as a run can be moved."""
    fingerprint: str
    profile: str
    """Name of the profile."""
    model: str
    dataset: str
    """Name or path of the dataset."""
    num_questions: int
    num_rollouts: int
    num_errors: int
    """Rollouts without a completion."""
    errors: tuple[ErrorCount, ...]
    """The most frequent reasons for no reward, in descending order."""
    gold_suspects: int
    """How many questions have a ground truth that looks wrong."""
    mean_reward: float | None
    """The same as ``overall.mean_reward``."""
    mean_reward_without_suspects: float | None
    """The same as ``overall.mean_reward_without_suspects``."""
    overall: ArmMetrics
    arms: tuple[ArmMetrics, ...]
    """In the order of the run's configuration."""
    contrasts: tuple[ArmContrast, ...]
    """Every pair of arms that share a question."""
    generation: GenerationTotals
    telemetry: TelemetrySummary | None
    """None when no telemetry was recorded."""
    oom_ladder: tuple[RungChange, ...]
    """Steps down the out-of-memory ladder, in the order in which they were taken."""
    rollouts_per_rung: dict[str, int]
    """Rollouts generated on each rung of that ladder."""
    equivalence: EquivalenceOutcome | None
    """None when the run was not compared with a baseline."""
    batch: BatchInForce | None = None
    """None in a report of an earlier release."""
    mismatch: MismatchOutcome | None = None
    """None when ``harvest mismatch`` was not called."""
    warnings: tuple[str, ...] = ()
    """What a trainer must know of the rollouts; a sentence each."""
    model_sampling: dict[str, float] | None = None
    """What was taken from the model's own generation_config.json, by name; None if that was not asked for."""
    outcome: Outcome | None = None
    """What was expected of the last session and what it took; None where nothing was expected."""
    pass_rates: tuple[ArmPassRates, ...] = ()
    """By arm; empty where no group has two rollouts with a reward, and in a report of an earlier release."""
    stopping: StoppingReport | None = None
    """None in a run without a stopping rule."""

    @property
    def num_unscored(self) -> int:
        """Rollouts with a completion and without a reward."""
        return self.num_rollouts - self.num_errors - self.overall.scored

    @property
    def all_arms(self) -> tuple[ArmMetrics, ...]:
        """The rows of a table: every arm, then all arms together under the name "all"."""
        return (*self.arms, replace(self.overall, arm_id="all"))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        values = {**asdict(self), "telemetry": self.telemetry and self.telemetry.to_json()}
        values["generation"]["sessions"] = [session.to_json() for session in self.generation.sessions]
        unset = {"batch": None, "warnings": (), "model_sampling": None, "mismatch": None, "outcome": None}
        unset |= {"pass_rates": (), "stopping": None}
        values = {name: value for name, value in values.items() if name not in unset or value != unset[name]}
        for session in values["generation"]["sessions"]:
            if session["start_kind"] is None:
                del session["start_kind"]
        return values

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "RunReport":
        """Return the record of a value that ``to_json`` made."""
        return TypeAdapter(cls).validate_python(value)


def publish_report(report: RunReport, run_dir: Path, scores: str = OWN_SCORES) -> None:
    """Write report.json of the run at ``run_dir``, for the set in the folder ``scores``."""
    paths = RunPaths(root=run_dir, scores_folder=scores)
    publish_json({**report.to_json(), "run_dir": "."}, paths.report, recorded_path)


def read_report(run_dir: Path, scores: str = OWN_SCORES) -> RunReport | None:
    """Return report.json of the run at ``run_dir``; None when there is none. Raises DamagedFile."""
    report = read_published(RunPaths(root=run_dir, scores_folder=scores).report, RunReport)
    return None if report is None else replace(report, run_dir=str(run_dir))
