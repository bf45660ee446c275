"""Finds the questions of a shard that still have rollouts to generate."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from profiles.arm_schema import Arm
from tasks.errors import StorageError
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.journal import QUARANTINE, JournalState, JournalWriter, read_journal
from tasks.generation.rollout_writer import FinishedRollout, RolloutWriter
from tasks.storage.published import read_shard


@dataclass(frozen=True, kw_only=True)
class QuestionWork:
    """The rollouts of a question that are still to be generated.

    With ``isolation`` 0 they share the engine with other questions. With 1 or 2 they are suspects, and have the engine
    to themselves.
    """

    example_id: str
    question: str
    rollouts: tuple[tuple[Arm, int], ...]
    isolation: int


class ShardFeed:
    """A shard in progress: its pending questions, in the order of admission, and its journal."""

    def __init__(self, work: ShardWork, spec: GenerationSpec) -> None:
        self.work = work
        self._spec = spec
        self._asked = list(asked_questions(work, spec))
        run_id = work.policy.run_id
        state = read_journal(work.journal, run_id, keep_rollouts=False)
        self.journal = JournalWriter(work.journal)
        self.journal.append({"kind": "open", "oom_rung": spec.oom_rung, "run_id": run_id})
        self.pending = deque(self._missing(state))
        self.num_unfinished = sum(len(question.rollouts) for question in self.pending)
        self.num_resumed = self._num_rollouts - self.num_unfinished
        self.num_quarantined = 0
        self._quarantine()

    @property
    def _num_rollouts(self) -> int:
        return sum(len(asked.rollouts) for asked in self._asked)

    def _missing(self, state: JournalState) -> list[QuestionWork]:
        work: list[QuestionWork] = []
        for asked in self._asked:
            missing: dict[int, list[tuple[Arm, int]]] = {}
            for arm, sample_index in asked.rollouts:
                key = (asked.example_id, arm.id, sample_index)
                if key not in state.finished:
                    missing.setdefault(state.suspicion.get(key, 0), []).append((arm, sample_index))
            for isolation, rollouts in missing.items():
                # at 2 the engine died with this question alone: trying its rollouts one by one finds the guilty one
                parts = [[rollout] for rollout in rollouts] if isolation >= 2 else [rollouts]
                work += [
                    QuestionWork(
                        example_id=asked.example_id,
                        question=asked.question,
                        rollouts=tuple(part),
                        isolation=isolation,
                    )
                    for part in parts
                ]
        # suspects come last, when all other rollouts are safe on disk
        return sorted(work, key=lambda question: question.isolation)

    def _quarantine(self) -> None:
        quarantined = [question for question in self.pending if question.isolation >= QUARANTINE]
        for question in quarantined:
            self.pending.remove(question)
            error = "the engine died each time that it had this request"
            RolloutWriter(self.journal, self._spec).write(
                [
                    FinishedRollout(
                        example_id=question.example_id, arm_id=arm.id, sample_index=sample_index, error=error
                    )
                    for arm, sample_index in question.rollouts
                ]
            )
            self.num_quarantined += len(question.rollouts)
            self.num_unfinished -= len(question.rollouts)

    def admit(self, question: QuestionWork) -> None:
        """Record in the journal that the engine will get ``question`` next."""
        self.journal.append(
            {
                "kind": "admit",
                "example_id": question.example_id,
                "rollouts": [[arm.id, sample_index] for arm, sample_index in question.rollouts],
                "isolation": question.isolation,
            }
        )


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A question of a shard, and the rollouts that are asked of it: by arm, then by sample."""

    example_id: str
    question: str
    ground_truth: str
    rollouts: tuple[tuple[Arm, int], ...]


def asked_questions(work: ShardWork, spec: GenerationSpec) -> Iterator[AskedQuestion]:
    """Yield what ``work`` asks: every arm with all of its samples, or what a later wave says.

    Raises StorageError when the file is missing or damaged.
    """
    for row in read_questions(work.questions).iter_rows(named=True):
        arm_ids = row.get("arm_ids")
        arms = [arm for arm in spec.arms if arm_ids is None or arm.id in arm_ids]
        samples = range(row.get("first_sample", 0), row.get("end_sample", spec.sampling.samples_per_arm))
        yield AskedQuestion(
            example_id=row["example_id"],
            question=row["question"],
            ground_truth=row["ground_truth"],
            rollouts=tuple((arm, sample) for arm in arms for sample in samples),
        )


def read_questions(path: Path) -> pl.DataFrame:
    """Return a shard's questions, in QUESTION_SCHEMA or ASKED_SCHEMA.

    Raises StorageError when the file is missing or damaged.
    """
    try:
        return read_shard(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"cannot read {path}: {error}. Run the same command, which writes it again") from error
