"""The ends of real logs of vLLM 0.25.1 on an H200 whose memory another process took."""

from pathlib import Path

import pytest

from tasks.errors import OutOfMemory, Phase
from tasks.generation.failure_classifier import find_cause

LOGS = Path(__file__).parents[2] / "data"
WEIGHTS_LOADED = "INFO [default_loader.py:430] Loading weights took 0.24 seconds\n"


@pytest.mark.parametrize(
    ("name", "before", "phase", "curable"),
    [
        ("gpu_oom_run.log", "", "run", True),
        ("gpu_oom_start.log", WEIGHTS_LOADED, "start", True),
        # the engine core in a process of its own, which the replica hears of as "initialization failed" or "dead"
        ("gpu_oom_core_run.log", "", "run", True),
        ("gpu_oom_core_start.log", WEIGHTS_LOADED, "start", True),
        # before the weights are in, a smaller batch cannot help
        ("gpu_oom_start.log", "", "start", False),
    ],
)
def test_real_gpu_logs_are_told_as_device_memory(name: str, before: str, phase: Phase, curable: bool) -> None:
    told = find_cause(before + (LOGS / name).read_text(), phase)
    assert isinstance(told, OutOfMemory)
    assert (told.kind, told.phase, told.curable) == ("device", phase, curable)
    sentences = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",
        "RuntimeError: CUDA error: CUBLAS_STATUS_",
    )
    assert told.reason.startswith(sentences)
