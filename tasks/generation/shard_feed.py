"""Finds the questions of a shard that still have rollouts to generate."""

from collections import deque
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
        self._questions = read_questions(work.questions)
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
        return self._questions.height * len(self._spec.arms) * self._spec.sampling.samples_per_arm

    def _missing(self, state: JournalState) -> list[QuestionWork]:
        work: list[QuestionWork] = []
        for example_id, question, _ in self._questions.iter_rows():
            missing: dict[int, list[tuple[Arm, int]]] = {}
            for arm in self._spec.arms:
                for sample_index in range(self._spec.sampling.samples_per_arm):
                    key = (example_id, arm.id, sample_index)
                    if key not in state.finished:
                        missing.setdefault(state.suspicion.get(key, 0), []).append((arm, sample_index))
            for isolation, rollouts in missing.items():
                # at 2 the engine died with this question alone: trying its rollouts one by one finds the guilty one
                parts = [[rollout] for rollout in rollouts] if isolation >= 2 else [rollouts]
                work += [
                    QuestionWork(
                        example_id=example_id,
                        question=question,
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


def read_questions(path: Path) -> pl.DataFrame:
    """Return a shard's questions, in QUESTION_SCHEMA. Raises StorageError when the file is missing or damaged."""
    try:
        return read_shard(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"cannot read {path}: {error}. Run the same command, which writes it again") from error
