"""Tests that the wait ends when the GPU memory of the dead engine is free, and not before."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from tasks.node.gpu_memory_release import SETTLED_READINGS, wait_for_free_memory
from tasks.node.gpu_reading import GpuProcess, GpuReading
from tasks.units import GIB
from tests.support.fake_nvml import FakeReader, healthy
from tests.support.patience import HANG_SECONDS, SHORT_SECONDS, scaled

OURS, OTHERS = 4711, 815


@dataclass
class FreeingReader(FakeReader):
    """Reads GPU 1 as the next of ``moments`` of (free GiB, pids on it) each time, and as the last one at the end."""

    moments: Sequence[tuple[int, tuple[int, ...]]] = ()
    read: list[int] = field(default_factory=list)

    def gpu(self, index: int) -> GpuReading:
        if index != 1:
            return self.gpus[index]
        free, pids = self.moments[min(len(self.read), len(self.moments) - 1)]
        self.read.append(free)
        processes = tuple(GpuProcess(pid=pid, used_bytes=None) for pid in pids)
        return replace(self.gpus[1], memory_free=free * GIB, processes=processes)


@pytest.mark.parametrize("name", ["1", "GPU-00000001-0000", "GPU-00000001"])
@pytest.mark.parametrize(
    ("moments", "changes"),
    [
        pytest.param([(80, ())], 0, id="free from the start"),
        pytest.param([(10, ()), (10, ()), (10, ()), (50, ()), (80, ())], 4, id="freed after a delay"),
        pytest.param([(80, (OURS,))] * 9 + [(80, ())], 8, id="ours is still listed"),
        pytest.param([(10, (OURS, OTHERS)), (80, (OTHERS,))], 1, id="another process stays"),
        pytest.param([(5, (OURS, OTHERS)), (42, (OTHERS,))], 1, id="a neighbour keeps its half"),
        pytest.param([(5, (OURS, OTHERS)), (42, (OTHERS,)), (20, (OTHERS,))], 1, id="a neighbour takes more"),
    ],
)
def test_the_wait_ends_when_memory_is_stable_and_our_process_is_gone(
    name: str, moments: list[tuple[int, tuple[int, ...]]], changes: int
) -> None:
    reader = FreeingReader(gpus=[healthy(0), healthy(1)], moments=moments)
    # one more reading looks up the names
    reader.moments = [moments[0], *moments]
    wait_for_free_memory([name], {OURS}, reader=reader, interval_s=0, timeout=scaled(HANG_SECONDS))
    assert len(reader.read) == 2 + changes + SETTLED_READINGS


def test_the_wait_ends_at_its_limit_though_our_process_is_still_listed() -> None:
    reader = FreeingReader(gpus=[healthy(0), healthy(1)], moments=[(80, (OURS,))])
    wait_for_free_memory(["1"], {OURS}, reader=reader, interval_s=0, timeout=SHORT_SECONDS)


@pytest.mark.parametrize(
    ("gpus", "reader"),
    [
        pytest.param(None, FreeingReader(), id="a CPU profile"),
        pytest.param(["1"], FreeingReader(no_driver="no driver"), id="no driver"),
        pytest.param(["MIG-1234"], FreeingReader(gpus=[healthy(0)]), id="a name that NVML does not list"),
    ],
)
def test_there_is_no_wait_without_a_gpu(gpus: list[str] | None, reader: FreeingReader) -> None:
    wait_for_free_memory(gpus, {OURS}, reader=reader, interval_s=3600)
