"""Fill the engine caches for what is to be compared, all at once, so that nothing that is measured starts cold.

    python infra/gpu-bench/warm.py MODEL MAX_TOKENS KIND...

KIND is "auto", a profile, a profile and "+lora" (room for two adapters of rank 16), or what tasks/peers compares:
"limit" (one LLM.generate call), "serve" (vllm serve, datatrove) and "ray". Each engine gets a small KV cache: the
engine caches do not depend on its size.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tasks.generation.engine import EngineSpec
from tasks.generation.engine_environment import engine_environment
from tasks.generation.filled_caches import FilledCaches
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.oom_ladder import build_ladder
from tasks.generation.vllm_requests import engine_arguments
from tasks.node.engine_caches import chosen_caches
from tasks.node.plan_here import plan_here
from tasks.node.run_batch import choose_run_batch
from tasks.peers.default_engine import default_arguments, default_environment
from tasks.plan.run_config import config_from_parameters

SMALL = {"kv_cache_memory_bytes": 1 << 30, "gpu_memory_utilization": 0.1}
CONTEXTS = {"limit": "LLM_CLASS", "serve": "OPENAI_API_SERVER", "ray": "ENGINE_CONTEXT"}


def main() -> None:
    model, max_tokens, *kinds = sys.argv[1:]
    if len(kinds) > 1:
        started = [subprocess.Popen([sys.executable, __file__, model, max_tokens, kind]) for kind in kinds]
        sys.exit(max(process.wait() for process in started))
    warm(model, int(max_tokens), kinds[0])
    sys.stdout.flush()
    os._exit(0)  # the engine's own shutdown can hang


def warm(model: str, max_tokens: int, kind: str) -> None:
    """Start the engine of ``kind`` in this process."""
    profile, _, adapters = ("auto" if kind in CONTEXTS else kind).partition("+")
    asked = {"profile": profile, "model": model, "max_tokens": max_tokens, "questions": 500}
    plan = plan_here(config_from_parameters(asked), Path(tempfile.mkdtemp()))
    rung = build_ladder(plan.profile, plan.rollouts_per_question, choose_run_batch(plan))[0]
    room = LoraSpec(adapters=(), slots=2, held=2, rank=16) if adapters else None
    arguments: dict[str, Any]
    if kind in CONTEXTS:
        environment = default_environment(plan.profile.engine, os.environ)
        spec = EngineSpec.of(plan, plan.profile.engine)
        arguments = default_arguments(spec, seeded=kind != "limit")
    else:
        environment = engine_environment(rung.engine, os.environ, on_gpu=True)
        arguments = engine_arguments(EngineSpec.of(plan, rung.engine, lora=room))
    os.environ.update(environment)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no part of the caches' key
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    context = UsageContext[CONTEXTS.get(kind, "LLM_CLASS")]
    LLMEngine.from_engine_args(EngineArgs(**(arguments | SMALL)), usage_context=context)
    if kind not in CONTEXTS and not adapters:
        FilledCaches(plan, chosen_caches(os.environ).root).add(rung.engine, "cold")
    print(f"{kind}: filled", flush=True)


if __name__ == "__main__":
    main()
