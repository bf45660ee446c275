"""Tells how many engines of a model fit one GPU. Whether they should share it is for measurements to say."""

from pathlib import Path

from profiles.schema import AUTO, Profile
from profiles.settings import MOST_REPLICAS_PER_GPU
from tasks.node.auto_batch import auto_engine
from tasks.node.engine_memory import default_sequences
from tasks.node.memory_budget import MemoryBudget
from tasks.plan.model_shape import UnknownLayoutError


def engines_that_fit(
    profile: Profile,
    model_path: Path,
    *,
    expected_length: int,
    gpu_bytes: int | None,
    gpu_name: str = "",
    most: int = MOST_REPLICAS_PER_GPU,
) -> int:
    """Return how many engines of ``profile``, up to ``most``, fit one GPU of ``gpu_bytes``. It loads no weights.

    The rule: the KV cache of each holds as many sequences of ``expected_length`` tokens (prompt and completion) as the
    engine may run at once: max_num_seqs, or with an "auto" batch vLLM's default for the GPU. Fewer would make up for
    the second engine by smaller batches. It is 1 when the memory is unknown, and also when one engine holds fewer: the
    memory plan says whether one fits. Raises ConfigError when the model's files cannot be read.
    """
    engine = profile.engine
    if profile.expect.device != "cuda" or engine.gpus > 1 or gpu_bytes is None:
        return 1
    if profile.question_batch_size == AUTO:
        engine = auto_engine(profile, engine.max_num_seqs or default_sequences(gpu_bytes, gpu_name))
    try:
        memory = MemoryBudget(profile, model_path, gpu_bytes, gpu_name)
    except UnknownLayoutError:
        return 1
    for engines in range(most, 1, -1):
        cache = memory.cache(engine, engines=engines)
        if cache is not None and cache.sequences(expected_length) >= engine.sequences:
            return engines
    return 1
