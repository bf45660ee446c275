"""What a shard still has to generate, and the record of what it has."""

import datetime
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from profiles.schema import Arm
from tasks.errors import StorageError
from tasks.generation.engine import EngineOutput
from tasks.generation.journal import QUARANTINE, JournalState, JournalWriter, pack, read_journal
from tasks.plan.run_config import Sampling


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
    """A rollout as the engine made it, or the ``error`` for which there is none."""

    example_id: str
    arm_id: str
    sample_index: int
    prompt_ids: list[int] = field(default_factory=list)
    output: EngineOutput | None = None
    error: str | None = None


class Decoder(Protocol):
    """The part of a tokenizer that turns completions into text."""

    def decode(self, completion_ids: list[int], stop: Sequence[str] = ()) -> str: ...


class RolloutWriter:
    """Appends a shard's rollouts to its journal; ``decoder`` is for those that have an output."""

    def __init__(self, journal: JournalWriter, spec: GenerationSpec, decoder: Decoder | None = None) -> None:
        self._journal = journal
        self._spec = spec
        self._decoder = decoder

    def write(self, rollouts: Sequence[FinishedRollout]) -> None:
        """Append rollouts. Raises StorageError when the disk refuses."""
        self._journal.append(*map(self._record, rollouts))

    def close(self) -> None:
        self._journal.close()

    def _record(self, rollout: FinishedRollout) -> dict[str, Any]:
        base = {
            "kind": "rollout",
            "example_id": rollout.example_id,
            "arm_id": rollout.arm_id,
            "sample_index": rollout.sample_index,
            "question_batch_size": self._spec.question_batch_size,
            "max_num_seqs": self._spec.max_num_seqs,
            "oom_rung": self._spec.oom_rung,
            "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
            "prompt_ids": pack(rollout.prompt_ids, "i4"),
        }
        output = rollout.output
        if output is None:
            return base | {"error": rollout.error}
        assert self._decoder is not None
        return base | {
            "completion": self._decoder.decode(output.completion_ids, self._spec.sampling.stop),
            "completion_ids": pack(output.completion_ids, "i4"),
            "logprobs": pack(output.logprobs, "f4"),
            "top": None
            if output.top_ids is None or output.top_logprobs is None
            else [len(output.top_ids[0]), pack(output.top_ids, "i4"), pack(output.top_logprobs, "f4")],
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
        }


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
        """Record that ``question`` is about to be given to the engine."""
        self.journal.append(
            {
                "kind": "admit",
                "example_id": question.example_id,
                "rollouts": [[arm.id, sample_index] for arm, sample_index in question.rollouts],
                "isolation": question.isolation,
            }
        )
