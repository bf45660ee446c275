"""LoRA adapters in the real engine: each request gets its own policy, whoever else is in the batch."""

import pytest

from profiles.load import DEMO_MODEL
from tests.support.engine_script import run_engine_script
from tests.support.lora_adapters import merge_adapter, write_adapter

pytestmark = pytest.mark.slow

_GENERATE = """
import json, os, sys
from pathlib import Path
from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineRequest, EngineSpec
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.policy import Adapter
from tasks.generation.engine_environment import engine_environment
from tasks.generation.vllm_engine import VllmBatchEngine, VllmEngine
from tasks.plan.adapter_source import LoraSlots, find_adapters
from tasks.plan.model_source import find_model
settings = EngineSettings(
    dtype="float32", max_model_len=256, enforce_eager=True, enable_chunked_prefill=False, max_num_batched_tokens=512,
    max_num_seqs=16, kv_cache_space_gib=1,
)
os.environ |= engine_environment(settings, os.environ, on_gpu=False)
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
base, merged, *paths = map(Path, sys.argv[1:])
sources = find_adapters([str(path) for path in paths], find_model(str(base)))
room = LoraSlots.of(sources, on_gpu=False)
a, b = (Adapter(name=source.name, path=source.path, number=n) for n, source in enumerate(sources, 1))
lora = LoraSpec(adapters=(a, b), slots=room.slots, held=room.held, rank=room.rank)
# the same prompt for all, which a prefix cache would share
prompt = list(range(20, 70))
def generate(engine, *adapters):
    names = {}
    for n in range(4):
        for adapter in adapters:
            name = f"{adapter.name if adapter else 'base'} {n}"
            engine.add(EngineRequest(request_id=name, prompt_ids=prompt, max_tokens=32, temperature=1.0, top_p=1.0,
                                     seed=n, adapter=adapter))
            names[name] = None
    while None in names.values():
        for output in engine.step():
            names[output.request_id] = [output.completion_ids, [float(value) for value in output.logprobs]]
    return names
engine = VllmEngine(EngineSpec(model_path=base, settings=settings, lora=lora))
found = {"together": generate(engine, None, a, b), "alone": {}}
for adapter in (b, None, a):
    found["alone"] |= generate(engine, adapter)
batch = VllmBatchEngine(EngineSpec(model_path=base, settings=settings, lora=lora))
requests = [
    EngineRequest(request_id=name, prompt_ids=prompt, max_tokens=32, temperature=1.0, top_p=1.0, seed=0, adapter=which)
    for name, which in (("base 0", None), ("b 0", b), ("a 0", a))
]
outputs = batch.convert_outputs(requests, batch.generate(requests, text=False))
found["one call"] = {out.request_id: [out.completion_ids, list(map(float, out.logprobs))] for out in outputs}
for name, model in (("merged", merged), ("base", base)):
    found[name] = generate(VllmEngine(EngineSpec(model_path=model, settings=settings)), None)
print(json.dumps(found), flush=True)
os._exit(0)
"""
_CLOSE = 1e-3
"""Nats by which logprobs of the same weights in another order of float32 operations may differ."""

Completions = dict[str, tuple[list[int], list[float]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Completions]:
    folder = tmp_path_factory.mktemp("lora")
    a, b = write_adapter(folder / "a", seed=1), write_adapter(folder / "b", seed=2, rank=12)
    merged = merge_adapter(a, folder / "merged")
    told: dict[str, Completions] = run_engine_script(_GENERATE, DEMO_MODEL, merged, a, b)
    return told


def assert_same(one: tuple[list[int], list[float]], other: tuple[list[int], list[float]]) -> None:
    assert one[0] == other[0]
    assert one[1] == pytest.approx(other[1], abs=_CLOSE)


@pytest.mark.parametrize("seed", range(4))
def test_policies_in_one_batch_are_three(found: dict[str, Completions], seed: int) -> None:
    together = found["together"]
    logprobs = [together[f"{name} {seed}"][1] for name in ("base", "a", "b")]
    assert all(one != pytest.approx(other, abs=0.01) for one in logprobs for other in logprobs if one is not other)


@pytest.mark.parametrize("name", ["base", "a", "b"])
@pytest.mark.parametrize("seed", range(4))
def test_each_is_in_a_batch_with_others_as_it_is_alone(found: dict[str, Completions], name: str, seed: int) -> None:
    assert_same(found["together"][f"{name} {seed}"], found["alone"][f"{name} {seed}"])


@pytest.mark.parametrize("seed", range(4))
def test_an_adapter_is_the_model_that_it_is_merged_into(found: dict[str, Completions], seed: int) -> None:
    assert_same(found["together"][f"a {seed}"], found["merged"][f"base {seed}"])


@pytest.mark.parametrize("seed", range(4))
def test_the_model_beside_adapters_is_the_model_without_them(found: dict[str, Completions], seed: int) -> None:
    assert_same(found["together"][f"base {seed}"], found["base"][f"base {seed}"])


@pytest.mark.parametrize("name", ["base", "a", "b"])
def test_one_call_of_vllm_gives_the_same(found: dict[str, Completions], name: str) -> None:
    assert_same(found["one call"][f"{name} 0"], found["together"][f"{name} 0"])
