"""What a shard still has to generate, and the record of what it has."""

import datetime
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from profiles.schema import Arm
from tasks.engine import EngineOutput
from tasks.errors import StorageError
from tasks.journal import QUARANTINE, JournalState, JournalWriter, pack, read_journal
from tasks.run_config import Sampling


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """What is the same for every rollout that a replica makes between its start and its end."""

    run_id: str
    arms: tuple[Arm, ...]
    sampling: Sampling
    model: str
    model_revision: str
    max_model_len: int
    question_batch_size: int
    max_num_seqs: int
    oom_rung: int
    loop: bool = False
    """Wait for a whole question batch before the next, as a loop of generate calls does."""

    @property
    def rollouts_per_question(self) -> int:
        return len(self.arms) * self.sampling.samples_per_arm

    @property
    def batch_rollouts(self) -> int:
        """Rollouts of a question batch."""
        return self.question_batch_size * self.rollouts_per_question


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """A shard to generate: where its questions are, where its journal and its rollouts go."""

    index: int
    questions: Path
    journal: Path
    rollouts: Path


@dataclass(frozen=True, kw_only=True)
class QuestionWork:
    """A question's rollouts that are missing. ``isolation`` 0 shares the engine, 1 and 2 have it alone."""

    example_id: str
    question: str
    ground_truth: str
    rollouts: tuple[tuple[Arm, int], ...]
    isolation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRollout:
    """A rollout as the engine made it; ``text`` is its completion, decoded."""

    question: QuestionWork
    arm: Arm
    sample_index: int
    prompt_ids: list[int]
    output: EngineOutput
    text: str


def read_questions(path: Path) -> pl.DataFrame:
    """A shard's questions. Raises StorageError when the file is gone or damaged: the next run writes it again."""
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"cannot read {path}: {error}. Run the same command, which writes it again") from error


class ShardFeed:
    """One shard between its first admission and its last finished rollout."""

    def __init__(self, work: ShardWork, spec: GenerationSpec) -> None:
        self.work = work
        self._spec = spec
        self._questions = read_questions(work.questions)
        state = read_journal(work.journal, keep_rollouts=False)
        self.journal = JournalWriter(work.journal)
        self.journal.append({"kind": "open", "oom_rung": spec.oom_rung})
        self.pending = deque(self._missing(state))
        self.num_unfinished = sum(len(question.rollouts) for question in self.pending)
        self.num_resumed = self._num_rollouts - self.num_unfinished
        self.num_quarantined = 0
        self._quarantine(state)

    @property
    def _num_rollouts(self) -> int:
        return self._questions.height * len(self._spec.arms) * self._spec.sampling.samples_per_arm

    def _missing(self, state: JournalState) -> list[QuestionWork]:
        work: list[QuestionWork] = []
        for example_id, question, ground_truth in self._questions.iter_rows():
            missing: dict[int, list[tuple[Arm, int]]] = {}
            for arm in self._spec.arms:
                for sample_index in range(self._spec.sampling.samples_per_arm):
                    key = (example_id, arm.id, sample_index)
                    if key not in state.finished:
                        missing.setdefault(state.suspicion.get(key, 0), []).append((arm, sample_index))
            for isolation, rollouts in missing.items():
                # two deaths with the question alone: find the one rollout that is to blame
                parts = [[rollout] for rollout in rollouts] if isolation >= 2 else [rollouts]
                work += [
                    QuestionWork(
                        example_id=example_id,
                        question=question,
                        ground_truth=ground_truth,
                        rollouts=tuple(part),
                        isolation=isolation,
                    )
                    for part in parts
                ]
        # suspects last: what surely works is safe on disk before the engine is risked again
        return sorted(work, key=lambda question: question.isolation)

    def _quarantine(self, state: JournalState) -> None:
        guilty = [question for question in self.pending if question.isolation >= QUARANTINE]
        for question in guilty:
            self.pending.remove(question)
            for arm, sample_index in question.rollouts:
                self.record_error(question, arm, sample_index, "the engine died each time that it had this request")
                self.num_quarantined += 1

    def admit(self, question: QuestionWork) -> None:
        """Record that ``question`` is about to be given to the engine."""
        self.journal.append(
            {
                "kind": "admit",
                "example_id": question.example_id,
                "rollouts": [[arm.id, sample_index] for arm, sample_index in question.rollouts],
                "isolation": question.isolation,
            }
        )

    def record(self, rollouts: Sequence[FinishedRollout]) -> None:
        """Append finished rollouts."""
        self._append(*map(self._finished, rollouts))

    def _finished(self, rollout: FinishedRollout) -> dict[str, Any]:
        output = rollout.output
        return self._base(rollout.question, rollout.arm, rollout.sample_index) | {
            "completion": rollout.text,
            "prompt_ids": pack(rollout.prompt_ids, "i4"),
            "completion_ids": pack(output.completion_ids, "i4"),
            "logprobs": pack(output.logprobs, "f4"),
            "top": None
            if output.top_ids is None or output.top_logprobs is None
            else [len(output.top_ids[0]), pack(output.top_ids, "i4"), pack(output.top_logprobs, "f4")],
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
        }

    def record_error(
        self, question: QuestionWork, arm: Arm, sample_index: int, error: str, prompt_ids: list[int] | None = None
    ) -> None:
        """Append an error row in place of a rollout that cannot be made."""
        self._append(
            self._base(question, arm, sample_index) | {"error": error, "prompt_ids": pack(prompt_ids or [], "i4")}
        )

    def _base(self, question: QuestionWork, arm: Arm, sample_index: int) -> dict[str, Any]:
        return {
            "kind": "rollout",
            "example_id": question.example_id,
            "arm_id": arm.id,
            "sample_index": sample_index,
            "question_batch_size": self._spec.question_batch_size,
            "max_num_seqs": self._spec.max_num_seqs,
            "oom_rung": self._spec.oom_rung,
            "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        }

    def _append(self, *records: dict[str, Any]) -> None:
        self.journal.append(*records)
        self.num_unfinished -= len(records)
