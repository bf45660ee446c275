"""A vLLM engine that takes the weights of other checkpoints gives the tokens of cold starts, or refuses."""

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.engine_script import run_engine_script

_COMPARE = """
import json, os, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from profiles.engine_settings import EngineSettings
from tasks.errors import ReloadRefused
from tasks.generation.engine import EngineRequest, EngineSpec
from tasks.generation.engine_environment import engine_environment
from tasks.generation.vllm_engine import VllmEngine
from tests.support.faulty_engines import OneGpuEngine
models = [Path(name) for name in sys.argv[1:]]
settings = EngineSettings(
    dtype="float32", max_model_len=256, enforce_eager=True, enable_chunked_prefill=False, max_num_batched_tokens=512,
    max_num_seqs=4, kv_cache_space_gib=1, enable_prefix_caching=True,
)
os.environ |= engine_environment(settings, os.environ, on_gpu=False)
def generate(engine):
    for n in range(4):
        engine.add(EngineRequest(request_id=f"r{n}", prompt_ids=list(range(5, 69)), max_tokens=24, temperature=1.0,
                                 top_p=1.0, seed=n))
    found = {}
    while len(found) < 4:
        found |= {o.request_id: [o.completion_ids, [float(x) for x in o.logprobs]] for o in engine.step()}
    return found
def reloaded(engine):
    found = [generate(engine)]
    for model in [models[1], models[0]]:
        engine.load_weights(model)
        found.append(generate(engine))
    return found
def refusal(engine, model):
    try:
        engine.load_weights(model)
    except ReloadRefused as error:
        return str(error)
def spec(model):
    return EngineSpec(model_path=model, settings=settings)
# first: an engine in this process makes vLLM keep the variables that it has read
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
engine = OneGpuEngine(spec(models[0]))
outside = reloaded(engine)
engine._engine.engine_core.shutdown()
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
engine = VllmEngine(spec(models[0]))
inside = reloaded(engine)
started = VllmEngine(spec(models[1]))
cold = [inside[0], generate(started)]
other = models[0].with_name("other")
shutil.copytree(models[1], other)
weights = other / "model.safetensors"
from safetensors.torch import load_file, save_file
tensors = load_file(weights)
dropped = tensors.pop("model.layers.3.mlp.up_proj.weight")
save_file(tensors, weights, metadata={"format": "pt"})
refused = [refusal(engine, other)]
# an engine whose weights on disk are not those that it was started with cannot show what a reload does
shutil.copy(models[0] / "model.safetensors", models[1] / "model.safetensors")
refused.append(refusal(started, models[0]))
# a worker alone, as the engine would have it
from torch import nn
from vllm.config.load import LoadConfig
from tasks.generation.weight_reload import ReloadingWorker
worker = ReloadingWorker()
worker.vllm_config = SimpleNamespace(load_config=LoadConfig(load_format="dummy"))
worker.model_runner = SimpleNamespace(get_model=nn.Module)
try:
    worker.harvest_reload(models[0])
except RuntimeError as error:
    refused.append(str(error))
print(json.dumps([cold, inside, outside, refused]), flush=True)
os._exit(0)
"""

Compared = tuple[list[dict[str, object]], list[dict[str, object]], list[dict[str, object]], list[str | None]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("checkpoints")
    models = [write_checkpoint(folder / f"step-{step}", step) for step in (1, 2)]
    found: Compared = run_engine_script(_COMPARE, *models)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("core_process", [False, True])
def test_reloads_give_the_tokens_and_logprobs_of_cold_starts(compared: Compared, core_process: bool) -> None:
    cold, inside, outside, _ = compared
    assert (outside if core_process else inside) == [*cold, cold[0]]
    assert cold[0] != cold[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "are not those of"), (1, "parameters are not as after a start"), (2, "with load_format 'dummy'")],
)
def test_what_cannot_be_shown_to_be_right_is_refused(compared: Compared, number: int, told: str) -> None:
    assert told in str(compared[3][number])
