"""The environment of a process that imports vLLM. This module does not import it."""

from collections.abc import Mapping

from profiles.engine_settings import EngineSettings
from tasks.node.core_process import CORE_PROCESS_VARIABLE, has_core_process
from tasks.time_limits import time_limit

READY_SECONDS = 86400
"""Within these seconds an engine core in its own process must be ready. The profile has the real limit. This one is the
same for all runs, as vLLM makes it a part of its compile cache's key."""
METHOD_VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
"""vLLM's own switch: fork or spawn. It is no part of its compile cache's key."""
RAY_EXECUTOR_VARIABLE = "VLLM_USE_RAY_V2_EXECUTOR_BACKEND"
STEP_SECONDS = 300.0
"""Within these seconds the workers of several GPUs must answer for one step; vLLM's own limit."""


def engine_environment(settings: EngineSettings, inherited: Mapping[str, str], *, on_gpu: bool) -> dict[str, str]:
    """Return the environment of a process that imports vllm: the ``inherited`` one and vLLM's variables.

    A value of the user wins, except over a variable that the settings decide.
    """
    core_process = has_core_process(settings, on_gpu=on_gpu, environment=inherited)
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_COLOR": "0",
        "TOKENIZERS_PARALLELISM": "false",
        # an engine process that is forked has imported everything, which takes 20 s on a node with GPUs. The replica
        # runs no threads of tokenizers, Polars or OpenMP before, and uses NVML alone: vLLM spawns by itself where CUDA
        # is initialised. On a CPU vLLM always spawns
        METHOD_VARIABLE: "fork" if on_gpu else "spawn",
        # the start has its limit in the profile; vLLM's own of ten minutes would end a slow one sooner
        "VLLM_ENGINE_READY_TIMEOUT_S": str(READY_SECONDS),
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": f"{time_limit(STEP_SECONDS):.0f}",
    }
    chosen = {CORE_PROCESS_VARIABLE: "1" if core_process else "0"}
    if settings.kv_cache_space_gib is not None:
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_space_gib)
        # threads that spin while they wait take cores from the flow, its server and each other: on a busy machine a
        # step then takes several times as long
        defaults["OMP_WAIT_POLICY"] = "passive"
        if settings.enforce_eager:
            # otherwise the first step compiles one small function (the rank of a token) for seconds, for no gain
            defaults["TORCHDYNAMO_DISABLE"] = "1"
    if settings.nodes_per_replica > 1:
        # vLLM's older Ray executor takes each address for another node; a spawned core would not know what is private
        chosen |= {RAY_EXECUTOR_VARIABLE: "1", METHOD_VARIABLE: "fork"}
    if settings.tensor_parallel_size > settings.gpus_per_node:
        # torch's symmetric memory is of one node, and vLLM would try it
        defaults["VLLM_ALLREDUCE_USE_SYMM_MEM"] = "0"
    if settings.batch_invariant:
        chosen |= {"VLLM_BATCH_INVARIANT": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return {**defaults, **inherited, **chosen}
