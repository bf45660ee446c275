"""Chooses the question batch of a run with ``question_batch_size = "auto"``, before the engine starts.

The engine gets as many seats (max_num_seqs) as vLLM takes by default on the GPU, or as the profile states, but fewer
where the KV cache could not use them: each costs memory for sampling. The run begins with the sequences that fit if
every completion is max_tokens long, so that nothing is preempted. What then runs says how many more fit:
tasks/generation/admission.py.

The settings of the engine follow from the seats, so that every step runs in a CUDA graph: vLLM itself puts no more
tokens of prompts into a step than ``max_num_batched_tokens`` leaves beside the sequences that decode, and the largest
graph has as many.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from profiles.engine_settings import EngineSettings
from profiles.schema import Profile
from tasks.node.cuda_graphs import capture_sizes, step_tokens
from tasks.node.engine_memory import KvCache

SHORTEST_SHARE = 1 / 16
"""Seats are kept for completions of this share of max_tokens: most are far shorter than the limit that guards against
endless ones."""
UNKNOWN_FIRST = 256
"""Sequences in flight at first when the memory is unknown: vLLM's smallest default."""


@dataclass(frozen=True, kw_only=True)
class AutoBatch:
    """The chosen batch of one replica."""

    sequences: int
    """Most sequences at once: the engine's max_num_seqs."""
    first_sequences: int
    """Sequences in flight at first."""
    questions: int
    """Most questions in flight."""
    first_questions: int
    """Questions in flight at first."""
    reason: str
    """Why, in words."""


def choose_batch(
    profile: Profile,
    *,
    rollouts_per_question: int,
    prompt: float,
    max_tokens: int,
    default_sequences: int,
    cache: Callable[[EngineSettings], KvCache | None],
) -> AutoBatch:
    """Return the batch of a replica of ``profile``, for prompts of ``prompt`` tokens on average.

    ``default_sequences`` is vLLM's max_num_seqs on the device. ``cache`` returns the KV cache under given
    settings, or None when its size is unknown.
    """
    engine = profile.engine
    most, limit = engine.max_num_seqs or default_sequences, "max_num_seqs"
    if engine.max_num_seqs is None:
        limit = "vLLM's own limit on this device"
    if engine.max_num_batched_tokens is not None and engine.max_num_batched_tokens < most:
        # vLLM refuses more sequences than a step may have tokens
        most, limit = engine.max_num_batched_tokens, "max_num_batched_tokens"
    longest, shortest = (
        min(math.ceil(prompt + share * max_tokens), engine.max_model_len) for share in (1.0, SHORTEST_SHARE)
    )

    def held(length: int) -> int | None:
        found = cache(auto_engine(profile, sequences))
        return None if found is None else found.sequences(length)

    sequences = most
    while sequences > rollouts_per_question and (usable := held(shortest)) is not None and usable < sequences:
        sequences = max(rollouts_per_question, sequences // 2)
    fit = held(longest)
    first = min(sequences, UNKNOWN_FIRST if fit is None else fit)
    up_to = f"{sequences:,}, {limit}" if sequences == most else f"{sequences:,}"
    rise = f"and rises to {up_to}, while there is room"
    if fit is None:
        reason = f"begins with {first:,} sequences, as the memory is unknown, {rise}"
    elif fit >= sequences:
        reason = f"{up_to}: the KV cache holds {fit:,} sequences of {longest} tokens"
    else:
        reason = f"begins with the {fit:,} sequences of {longest} tokens that the KV cache holds, {rise}"
    # questions are admitted whole
    questions, first_questions = (max(1, count // rollouts_per_question) for count in (sequences, first))
    return AutoBatch(
        sequences=sequences,
        first_sequences=first_questions * rollouts_per_question,
        questions=questions,
        first_questions=first_questions,
        reason=reason,
    )


def auto_engine(profile: Profile, sequences: int) -> EngineSettings:
    """Return the engine settings of ``profile`` with ``sequences`` seats, and with graphs for all steps on a GPU.

    A stated setting stays.
    """
    engine = profile.engine
    changes: dict[str, Any] = {"max_num_seqs": sequences}
    if profile.expect.device == "cuda" and engine.enable_chunked_prefill and not engine.enforce_eager:
        largest = step_tokens(sequences)
        tokens = engine.max_num_batched_tokens
        if tokens is None:
            tokens = changes["max_num_batched_tokens"] = largest
        if engine.cudagraph_capture_sizes is None and engine.max_cudagraph_capture_size is None:
            changes["cudagraph_capture_sizes"] = capture_sizes(sequences, min(largest, tokens))
    return engine.model_copy(update=changes)
