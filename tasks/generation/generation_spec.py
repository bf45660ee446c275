"""Defines the work of a replica: the settings that hold for all rollouts, and the files of each shard."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from profiles.arm_schema import Arm
from tasks.generation.oom_ladder import Rung
from tasks.generation.policy import Policy
from tasks.plan.sampling import Sampling
from tasks.records import RunPaths

if TYPE_CHECKING:
    # a replica gets its settings ready made, and starts sooner without what makes a plan
    from tasks.plan.run_plan import RunPlan


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """The settings that are the same for every rollout of one replica process, whatever its policy."""

    arms: tuple[Arm, ...]
    sampling: Sampling
    max_model_len: int
    question_batch_size: int
    """Questions in flight; at most, when ``first_questions`` is set."""
    max_num_seqs: int
    oom_rung: int
    first_questions: int | None = None
    """Questions in flight at first, when their number changes while the run goes on."""
    batch_barrier: bool = False
    """Whether a question batch starts only when the one before is finished, as in a loop of generate calls."""

    @classmethod
    def of(cls, plan: "RunPlan", rung: Rung) -> "GenerationSpec":
        """Return the settings of ``plan`` at ``rung`` of the OOM ladder."""
        return cls(
            arms=plan.arms.arms,
            sampling=plan.config.sampling,
            max_model_len=rung.engine.max_model_len,
            question_batch_size=rung.question_batch_size,
            max_num_seqs=rung.engine.sequences,
            oom_rung=rung.index,
            first_questions=rung.first_questions,
            batch_barrier=plan.profile.generation == "loop",
        )

    @property
    def rollouts_per_question(self) -> int:
        return len(self.arms) * self.sampling.samples_per_arm

    @property
    def batch_rollouts(self) -> int:
        """Rollouts of a question batch."""
        return self.question_batch_size * self.rollouts_per_question


class ShardKey(NamedTuple):
    """A shard among those of all runs that a replica pool serves."""

    run_id: str
    shard: int
    """Its index within the run."""


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """A shard to generate under ``policy``: its files of questions and of rollouts, and its journal."""

    policy: Policy
    index: int
    questions: Path
    journal: Path
    rollouts: Path

    @classmethod
    def of(cls, policy: Policy, paths: RunPaths, index: int) -> "ShardWork":
        """Return the work of shard ``index`` of the policy's run, which is in ``paths``."""
        return cls(
            policy=policy,
            index=index,
            questions=paths.questions(index),
            journal=paths.journal(index),
            rollouts=paths.rollouts(index),
        )

    @property
    def key(self) -> ShardKey:
        return ShardKey(self.policy.run_id, self.index)
