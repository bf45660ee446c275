"""VllmEngine: the same completions from its steps as from one call of vLLM, and no state left at the end.

Its core is in a process of its own, and then in the same. Then memory runs out, in vLLM's own words.
"""

import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import OutOfMemory, Phase
from tasks.generation.failure_classifier import find_cause
from tasks.parent_death import guarded_python_path
from tests.support.engine_script import run_engine_script

pytestmark = pytest.mark.slow

_COMPARE = """
import json, multiprocessing, os, sys, traceback
from tasks.gc_freeze import collect_rarely
from tasks.parent_death import PARENT_VARIABLE
collect_rarely()
os.environ[PARENT_VARIABLE] = str(os.getpid())
from dataclasses import replace
from pathlib import Path
from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineRequest, EngineSpec
from tasks.generation.engine_environment import engine_environment
from tasks.generation.vllm_engine import VllmBatchEngine, VllmEngine
from tasks.generation.journal import pack
from tests.support.faulty_engines import OneGpuEngine
settings = EngineSettings(
    dtype="float32", max_model_len=256, enforce_eager=True, enable_chunked_prefill=False, max_num_batched_tokens=512,
    max_num_seqs=4, kv_cache_space_gib=1, vllm={"stream_interval": 7, "additional_config": {"told": 1}},
)
os.environ |= engine_environment(settings, os.environ, on_gpu=False)
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
def generate(engine):
    for request in requests:
        engine.add(request)
    found, used = {}, 0.0
    while len(found) < len(requests):
        found |= {output.request_id: told(output) for output in engine.step()}
        used = max(used, engine.stats.kv_cache_usage)
    left = [len(engine._partial), len(engine._engine.output_processor.request_states)]
    tokens = [engine.stats.generation_tokens, sum(len(told["ids"]) for told in found.values())]
    return [found, left, tokens, used]
def failure(function):
    try:
        function()
    except Exception:
        return traceback.format_exc()
# first: an engine in this process makes vLLM keep the variables that it has read, and starts threads
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
engine = OneGpuEngine(spec)
(core,) = multiprocessing.active_children()
outside = generate(engine)
# a core that is told to end gives up its requests, more than it can finish before
for n in range(64):
    engine.add(replace(requests[5], request_id=f"given up {n}", max_tokens=200))
engine.step()
core.terminate()
try:
    while True:
        engine.step()
except RuntimeError as error:
    ended = str(error)
engine._engine.engine_core.shutdown()
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "16384"
too_large = failure(lambda: VllmEngine(spec))
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
batch = VllmBatchEngine(spec)
expected = {o.request_id: told(o) for o in batch.convert_outputs(requests, batch.generate(requests, text=False))}
class HungryEngine(VllmEngine):
    def arguments(self):
        return {**super().arguments(), "logits_processors": ["tests.support.hungry_logits:HungryLogits"]}
marker = Path(os.environ["HUNGRY_MARKER"])
marker.touch()
engine = HungryEngine(spec)
inside = generate(engine)
config = engine._engine.vllm_config
passed_on = [config.scheduler_config.stream_interval, config.additional_config]
marker.unlink()
engine.add(requests[0])
used_up = failure(engine.step)
assert not multiprocessing.active_children()
print(json.dumps([expected, inside, outside, ended, {"start": too_large, "run": used_up}, passed_on]), flush=True)
os._exit(0)
"""


Told = dict[str, dict[str, object]]
Generated = tuple[Told, list[int], tuple[int, int], float]
Compared = tuple[Told, Generated, Generated, str, dict[Phase, str], list[object]]
"""What one call gives, and the steps with the core in either place; why a request was given up; failures by phase; what
the profile passed on."""


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    marker = tmp_path_factory.mktemp("hungry") / "asked"
    found: Compared = run_engine_script(
        _COMPARE, DEMO_MODEL, HUNGRY_MARKER=str(marker), PYTHONPATH=guarded_python_path()
    )
    return found


@pytest.mark.parametrize("core_process", [False, True])
@pytest.mark.parametrize("request_id", [f"r{number}" for number in range(7)])
def test_a_completion_is_the_same_as_of_one_call(compared: Compared, request_id: str, core_process: bool) -> None:
    expected, inside, outside, *_ = compared
    found, *_ = outside if core_process else inside
    assert found[request_id] == expected[request_id]


def test_finished_requests_leave_no_state_and_tokens_and_use_of_the_cache_are_counted(compared: Compared) -> None:
    _, inside, outside, *_ = compared
    for _, left, (counted, made), used in (inside, outside):
        assert left == [0, 0]
        assert counted == made
        assert 0 < used <= 1


def test_a_completion_that_the_engine_gives_up_is_none(compared: Compared) -> None:
    assert compared[3] == "the engine gave a request up, with finish reason abort"


@pytest.mark.parametrize(
    ("phase", "curable", "told"),
    [
        ("start", False, "less than requested memory for kv (16384.0 GiB)"),
        ("run", True, "DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_host_memory_that_runs_out_is_told_from_what_vllm_raises(
    compared: Compared, phase: Phase, curable: bool, told: str
) -> None:
    found = find_cause(compared[4][phase], phase)
    assert isinstance(found, OutOfMemory)
    assert (found.kind, found.phase, found.curable) == ("host", phase, curable)
    assert told in found.reason


def test_what_the_profile_passes_on_arrives_in_vllm(compared: Compared) -> None:
    assert compared[5] == [7, {"told": 1}]
