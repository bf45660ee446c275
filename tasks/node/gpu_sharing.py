"""Divides a GPU's memory between the engines that share it.

vLLM 0.32 counts only its own use: it measures the free memory when it starts, and takes gpu_memory_utilization times
the whole GPU beyond what others hold then (v1/worker/gpu_worker.py, ``determine_available_memory``). So each of N
engines is told an Nth, and their sum is what one engine would be told. What vLLM does not count, each process holds
once more. It is taken off before the division, so that N engines need no more free memory than one.
"""

import math

from profiles.engine_settings import EngineSettings
from tasks.units import GIB

FURTHER_PROCESS_BYTES = GIB
"""Memory of each further engine that vLLM does not count: CUDA context, kernels, what torch holds beside the plan. An
estimate: the context takes about 0.5 GiB on an H100."""
LEAST_SHARE = 0.01
"""vLLM takes no utilization of 0. The memory plan refuses such a share."""
_PARTS = 10_000


def share_gpu(engine: EngineSettings, engines: int, gpu_bytes: int | None) -> EngineSettings:
    """Return the settings of each of ``engines`` that share a GPU; ``engine`` has those of the GPU as a whole.

    ``gpu_bytes`` is the GPU's total memory. Without it the further processes are left out of account.
    """
    if engines == 1:
        return engine
    beside = (engines - 1) * FURTHER_PROCESS_BYTES / gpu_bytes if gpu_bytes else 0.0
    # the rounding frees engines x 0.01% of the GPU, and never takes more than there is
    share = math.floor((engine.gpu_memory_utilization - beside) / engines * _PARTS) / _PARTS
    return engine.model_copy(update={"gpu_memory_utilization": max(LEAST_SHARE, share)})
