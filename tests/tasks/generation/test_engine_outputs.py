"""VllmEngine: the same completions from its steps as from one call of vLLM, and no state left at the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL

pytestmark = pytest.mark.slow

# in its own process, because an engine cannot be shut down in a process that continues
_COMPARE = """
import json, os, sys
from pathlib import Path
from profiles.schema import EngineSettings
from tasks.generation.engine import EngineRequest, EngineSpec
from tasks.generation.vllm_engine import VllmBatchEngine, VllmEngine, engine_environment
from tasks.generation.journal import pack
settings = EngineSettings(
    dtype="float32", max_model_len=256, enforce_eager=True, enable_chunked_prefill=False, max_num_batched_tokens=512,
    max_num_seqs=4, kv_cache_space_gib=1,
)
os.environ |= engine_environment(settings, os.environ)
from tasks.plan.prompts import ChatTokenizer, build_messages
from profiles.arm_schema import Arm
model = Path(sys.argv[1])
ids = ChatTokenizer(model).encode(build_messages(Arm(id="a", system_prompt="Add."), "2 plus 2?"))
ways = [
    {"top_logprobs": 3}, {}, {"max_tokens": 1, "top_logprobs": 2}, {"top_logprobs": 1, "stop": (".", "1")},
    {"stop": ("####",)}, {"ignore_eos": True, "top_logprobs": 5}, {"top_logprobs": 3},
]
requests = [
    EngineRequest(**{"request_id": f"r{n}", "prompt_ids": ids, "max_tokens": 40, "temperature": 1.0, "top_p": 1.0,
                     "seed": n, **way})
    for n, way in enumerate(ways)
]
def told(output):
    return {
        "ids": output.completion_ids, "ends": [output.finish_reason, output.stop_reason],
        "logprobs": pack(output.logprobs, "f4"),
        "top": None if output.top_ids is None else [len(output.top_ids[0]), pack(output.top_ids, "i4"),
                                                    pack(output.top_logprobs, "f4")],
    }
spec = EngineSpec(model_path=model, settings=settings)
batch = VllmBatchEngine(spec)
expected = {o.request_id: told(o) for o in batch.convert_outputs(requests, batch.generate(requests, text=False))}
engine = VllmEngine(spec)
for request in requests:
    engine.add(request)
found = {}
while len(found) < len(requests):
    found |= {output.request_id: told(output) for output in engine.step()}
left = [engine._partial, engine._engine.output_processor.request_states, engine.step()]
tokens = [engine.stats.generation_tokens, sum(len(told["ids"]) for told in found.values())]
print(json.dumps([expected, found, [len(items) for items in left], tokens]), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def compared() -> list[dict[str, dict[str, object]]]:
    ended = subprocess.run(
        [sys.executable, "-c", _COMPARE, str(DEMO_MODEL)], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: list[dict[str, dict[str, object]]] = json.loads(ended.stdout.splitlines()[-1])
    return found


_ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("request_id", [f"r{number}" for number in range(7)])
def test_a_completion_is_the_same_as_of_one_call(compared: list[dict[str, dict[str, object]]], request_id: str) -> None:
    expected, found, _, _ = compared
    assert found[request_id] == expected[request_id]


def test_finished_requests_leave_no_state_and_every_token_is_counted(
    compared: list[dict[str, dict[str, object]]],
) -> None:
    _, _, left, (counted, made) = compared
    assert left == [0, 0, 0]
    assert counted == made
