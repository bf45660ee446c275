"""Where vLLM's engine core runs: as the profile states, else as the environment says, else by the device."""

import pytest

from profiles.engine_settings import EngineSettings
from tasks.generation.engine_environment import engine_environment
from tasks.node.core_process import CORE_PROCESS_VARIABLE, has_core_process

TWO_GPUS = {"tensor_parallel_size": 2}


@pytest.mark.parametrize(
    ("settings", "on_gpu", "given", "expected"),
    [
        ({}, True, None, True),
        ({}, False, None, False),
        (TWO_GPUS, True, None, True),
        (TWO_GPUS, False, None, True),
        ({}, True, "0", False),
        ({}, False, "1", True),
        (TWO_GPUS, True, "0", False),
        ({"pipeline_parallel_size": 2}, False, None, True),
        ({"core_process": False}, True, None, False),
        ({"core_process": False}, True, "1", False),
        ({"core_process": True}, False, "0", True),
        ({"core_process": True} | TWO_GPUS, True, None, True),
        (TWO_GPUS | {"nodes_per_replica": 2}, True, "0", True),
    ],
)
def test_where_the_engine_core_runs(settings: dict[str, int], on_gpu: bool, given: str | None, expected: bool) -> None:
    engine = EngineSettings.model_validate(settings)
    environment = {} if given is None else {CORE_PROCESS_VARIABLE: given}
    assert has_core_process(engine, on_gpu=on_gpu, environment=environment) == expected
    found = engine_environment(engine, environment, on_gpu=on_gpu)
    assert found[CORE_PROCESS_VARIABLE] == ("1" if expected else "0")
