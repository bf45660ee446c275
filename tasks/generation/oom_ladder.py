"""Builds the OOM ladder: smaller and smaller engine settings to try after memory ran out.

vLLM preallocates its KV cache, so fewer prompts per call free no memory. The ladder first lowers the sequences and
batched tokens per step together with the reserved memory, then captures fewer CUDA graphs, then runs eagerly.
"""

from dataclasses import dataclass
from typing import Any

from profiles.engine_settings import EngineSettings
from profiles.schema import AUTO, Profile
from tasks.node.auto_batch import AutoBatch, auto_engine
from tasks.node.engine_memory import default_batched_tokens
from tasks.units import GIB

UTILIZATION_STEP = 0.05
MIN_UTILIZATION = 0.30
SMALL_CAPTURE_SIZE = 64
_STATED_CACHES = {"kv_cache_memory_bytes": GIB // 4, "num_gpu_blocks_override": 64}
"""Fields of vLLM that state the size of the KV cache, so that gpu_memory_utilization frees nothing, and the smallest
value to which a rung lowers each."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The question batch and engine settings at one step of the ladder. Rung 0 has the profile's own, or the chosen."""

    index: int
    question_batch_size: int
    """Questions in flight; of a chosen batch, the most."""
    engine: EngineSettings
    first_questions: int | None = None
    """Questions in flight at first, of a chosen batch; None when the profile states its batch, which never changes."""

    def describe(self) -> dict[str, Any]:
        """Return the settings that differ between rungs, for reports."""
        return {
            "rung": self.index,
            "question_batch_size": self.question_batch_size,
            "max_num_seqs": self.engine.max_num_seqs,
            "max_num_batched_tokens": self.engine.max_num_batched_tokens,
            "gpu_memory_utilization": self.engine.gpu_memory_utilization,
            "kv_cache_space_gib": self.engine.kv_cache_space_gib,
            "max_cudagraph_capture_size": self.engine.max_cudagraph_capture_size
            or max(self.engine.cudagraph_capture_sizes or (), default=None),
            "enforce_eager": self.engine.enforce_eager,
            **{name: self.engine.vllm[name] for name in _STATED_CACHES if name in self.engine.vllm},
        }


def build_ladder(profile: Profile, rollouts_per_question: int, auto: AutoBatch | None = None) -> list[Rung]:
    """Return all rungs for ``profile``, from its own settings down to one question with eager execution.

    ``auto`` is the chosen batch of a profile that does not state its own.
    """
    rungs = [_first(profile, rollouts_per_question, auto)]
    while rungs[-1].question_batch_size > 1:
        rungs.append(_halved(rungs[-1], profile))
    if not rungs[-1].engine.enforce_eager:
        last = rungs[-1]
        rungs.append(
            Rung(
                index=last.index + 1,
                question_batch_size=1,
                first_questions=last.first_questions,
                engine=last.engine.model_copy(
                    update={
                        "enforce_eager": True,
                        "max_cudagraph_capture_size": None,
                        "cudagraph_capture_sizes": None,
                    }
                ),
            )
        )
    return rungs


def _first(profile: Profile, rollouts_per_question: int, auto: AutoBatch | None) -> Rung:
    if auto is not None:
        return Rung(
            index=0,
            question_batch_size=auto.questions,
            first_questions=auto.first_questions,
            engine=auto_engine(profile, auto.sequences),
        )
    batch = profile.question_batch_size
    assert batch != AUTO, "the batch must be chosen first"
    seats = min(profile.engine.sequences, batch * rollouts_per_question)
    return Rung(index=0, question_batch_size=batch, engine=profile.engine.model_copy(update={"max_num_seqs": seats}))


def _halved(rung: Rung, profile: Profile) -> Rung:
    engine = rung.engine
    index = rung.index + 1
    changes: dict[str, Any] = {
        "max_num_seqs": max(1, engine.sequences // 2),
        "gpu_memory_utilization": _lower_utilization(engine.gpu_memory_utilization),
    }
    tokens = engine.max_num_batched_tokens
    if tokens is not None:
        # without chunked prefill a whole prompt must fit into one step
        minimum = 256 if engine.enable_chunked_prefill else engine.max_model_len
        changes["max_num_batched_tokens"] = max(min(tokens, minimum), tokens // 2)
    elif profile.expect.device == "cuda" and engine.enable_chunked_prefill:
        # a rung must not raise a setting, so a profile without the GPU's memory gets the smaller default
        memory, name = profile.expect.gpu_memory_gib or 0, profile.expect.gpu_name or ""
        changes["max_num_batched_tokens"] = default_batched_tokens(int(memory * GIB), name) // 2
    if engine.kv_cache_space_gib is not None:
        changes["kv_cache_space_gib"] = max(1, engine.kv_cache_space_gib // 2)
    if halved := {
        name: max(min(least, engine.vllm[name]), engine.vllm[name] // 2)
        for name, least in _STATED_CACHES.items()
        if name in engine.vllm
    }:
        changes["vllm"] = {**engine.vllm, **halved}
    if not engine.enforce_eager:
        changes |= _fewer_graphs(engine, index, changes.get("max_num_batched_tokens"))
    return Rung(
        index=index,
        question_batch_size=max(1, rung.question_batch_size // 2),
        first_questions=None if rung.first_questions is None else max(1, rung.first_questions // 2),
        engine=engine.model_copy(update=changes),
    )


def _fewer_graphs(engine: EngineSettings, index: int, most_tokens: int | None) -> dict[str, Any]:
    largest = SMALL_CAPTURE_SIZE if index >= 2 else None
    if engine.cudagraph_capture_sizes is not None:
        # no larger than a step can be
        limit = min(size for size in (largest, most_tokens, max(engine.cudagraph_capture_sizes)) if size is not None)
        kept = tuple(size for size in engine.cudagraph_capture_sizes if size <= limit)
        return {"cudagraph_capture_sizes": kept or (min(engine.cudagraph_capture_sizes),)}
    if largest is None:
        return {}
    return {"max_cudagraph_capture_size": min(largest, engine.max_cudagraph_capture_size or largest)}


def _lower_utilization(share: float) -> float:
    return round(max(min(share, MIN_UTILIZATION), share - UTILIZATION_STEP), 4)
