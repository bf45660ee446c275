"""Decides whether vLLM's engine core has a process of its own, beside the replica's, or runs in the replica's.

In its own it does not wait for the Python around it: 5% more tokens/s on an H200, and 10 to 20% on an H100.
"""

from collections.abc import Mapping

from profiles.engine_settings import EngineSettings

CORE_PROCESS_VARIABLE = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""vLLM's own switch: 0 or 1."""


def has_core_process(settings: EngineSettings, *, on_gpu: bool, environment: Mapping[str, str]) -> bool:
    """Return whether the core of an engine with ``settings`` has its own process.

    The profile decides where it states it, then the user's ``environment``. Else it does on GPUs, where Python is what
    a step waits for; on a CPU both processes would share the cores with the computation. An engine over several nodes
    always does: the connection to their cluster belongs to it alone, and ends with it.
    """
    if settings.nodes_per_replica > 1:
        return True
    if settings.core_process is not None:
        return settings.core_process
    if (given := environment.get(CORE_PROCESS_VARIABLE)) is not None:
        return given.strip() != "0"
    return on_gpu or settings.gpus > 1
