"""Writes finished rollouts into the journal of their shard."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.generation.engine import EngineOutput
from tasks.generation.generation_spec import GenerationSpec
from tasks.generation.journal import JournalWriter, pack


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRollout:
    """A rollout with the engine's ``output``, or with an ``error`` instead."""

    example_id: str
    arm_id: str
    sample_index: int
    prompt_ids: list[int] = field(default_factory=list)
    output: EngineOutput | None = None
    error: str | None = None
    question_batch_size: int | None = None
    """Questions in flight when it was finished; by default those of the settings."""


class Decoder(Protocol):
    """The part of a tokenizer that turns completions into text."""

    def decode(self, completion_ids: list[int], stop: Sequence[str] = ()) -> str: ...


class RolloutWriter:
    """Appends a shard's rollouts to its journal. Without a ``decoder`` it can write only error rows."""

    def __init__(self, journal: JournalWriter, spec: GenerationSpec, decoder: Decoder | None = None) -> None:
        self._journal = journal
        self._spec = spec
        self._decoder = decoder

    def write(self, rollouts: Sequence[FinishedRollout]) -> None:
        """Append rollouts. Raises StorageError when the disk refuses the write."""
        self._journal.append(*map(self._record, rollouts))

    def close(self) -> None:
        self._journal.close()

    def _record(self, rollout: FinishedRollout) -> dict[str, Any]:
        base = {
            "kind": "rollout",
            "example_id": rollout.example_id,
            "arm_id": rollout.arm_id,
            "sample_index": rollout.sample_index,
            "question_batch_size": rollout.question_batch_size or self._spec.question_batch_size,
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
            **_stored(output),
        }


def _stored(output: EngineOutput) -> dict[str, Any]:
    """Return what the run stores beside the tokens, if anything."""
    stored: dict[str, Any] = {}
    if (mask := output.sampling_mask) is not None:
        stored["sampling_mask"] = [pack(mask.counts, "i4"), pack(mask.ids, "i4")]
    if (experts := output.routed_experts) is not None:
        stored["routed_experts"] = [*experts.shape[1:], pack(experts, "u2")]
    return stored
