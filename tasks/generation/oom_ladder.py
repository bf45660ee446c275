"""Builds the OOM ladder: smaller and smaller engine settings to try after memory ran out.

vLLM preallocates its KV cache, so fewer prompts per call free no memory. The ladder first lowers the sequences and
batched tokens per step together with the reserved memory, then captures fewer CUDA graphs, then runs eagerly.
"""

from dataclasses import dataclass
from typing import Any

from profiles.schema import EngineSettings, Profile
from tasks.node.engine_memory import default_batched_tokens
from tasks.units import GIB

UTILIZATION_STEP = 0.05
MIN_UTILIZATION = 0.30
SMALL_CAPTURE_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The question batch and engine settings at one step of the ladder. Rung 0 has the profile's own."""

    index: int
    question_batch_size: int
    engine: EngineSettings

    def describe(self) -> dict[str, Any]:
        """Return the settings that differ between rungs, for reports."""
        return {
            "rung": self.index,
            "question_batch_size": self.question_batch_size,
            "max_num_seqs": self.engine.max_num_seqs,
            "max_num_batched_tokens": self.engine.max_num_batched_tokens,
            "gpu_memory_utilization": self.engine.gpu_memory_utilization,
            "kv_cache_space_gib": self.engine.kv_cache_space_gib,
            "max_cudagraph_capture_size": self.engine.max_cudagraph_capture_size,
            "enforce_eager": self.engine.enforce_eager,
        }


def build_ladder(profile: Profile, rollouts_per_question: int) -> list[Rung]:
    """Return all rungs for ``profile``, from its own settings down to one question with eager execution."""
    engine = profile.engine.model_copy(
        update={"max_num_seqs": min(profile.engine.max_num_seqs, profile.question_batch_size * rollouts_per_question)}
    )
    rungs = [Rung(index=0, question_batch_size=profile.question_batch_size, engine=engine)]
    while rungs[-1].question_batch_size > 1:
        rungs.append(_halved(rungs[-1], profile))
    if not rungs[-1].engine.enforce_eager:
        last = rungs[-1]
        rungs.append(
            Rung(
                index=last.index + 1,
                question_batch_size=1,
                engine=last.engine.model_copy(update={"enforce_eager": True, "max_cudagraph_capture_size": None}),
            )
        )
    return rungs


def _halved(rung: Rung, profile: Profile) -> Rung:
    engine = rung.engine
    index = rung.index + 1
    changes: dict[str, Any] = {
        "max_num_seqs": max(1, engine.max_num_seqs // 2),
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
    if index >= 2 and not engine.enforce_eager:
        changes["max_cudagraph_capture_size"] = min(
            SMALL_CAPTURE_SIZE, engine.max_cudagraph_capture_size or SMALL_CAPTURE_SIZE
        )
    return Rung(
        index=index,
        question_batch_size=max(1, rung.question_batch_size // 2),
        engine=engine.model_copy(update=changes),
    )


def _lower_utilization(share: float) -> float:
    return round(max(min(share, MIN_UTILIZATION), share - UTILIZATION_STEP), 4)
