"""A replica over several nodes takes its part of the GPUs of each: what is checked, taken and told on one of them."""

from pathlib import Path

import pytest
from rich.console import Console

from profiles.engine_settings import EngineSettings
from profiles.schema import ExpectedNode, Profile
from tasks.errors import ConfigError
from tasks.node.gpu_checks import gpu_checks
from tasks.node.gpu_selection import gpus_needed, gpus_per_replica
from tasks.node.preflight_view import render_plan
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run
from tests.support.fake_nvml import FakeReader, healthy
from tests.tasks.node.test_gpu_sharing import plan
from tests.tasks.node.test_memory_plan import LLAMA_70B


def profile(size: int, stages: int, nodes: int) -> Profile:
    engine = EngineSettings(tensor_parallel_size=size, pipeline_parallel_size=stages, nodes_per_replica=nodes)
    return Profile(name="wide", engine=engine, expect=ExpectedNode(gpu_name="H100"))


@pytest.mark.parametrize(
    ("size", "stages", "nodes", "visible", "expected"),
    [
        (4, 1, 2, None, ["0", "1"]),
        (2, 2, 2, "5,7,9", ["5", "7"]),
        (2, 1, 2, "3", ["3"]),
        (4, 1, 2, "3", r"needs 2 GPUs \(1 replicas x tensor_parallel_size 4 over 2 nodes\), but .* names 1"),
    ],
)
def test_the_gpus_that_it_takes_of_a_node(
    tmp_path: Path, size: int, stages: int, nodes: int, visible: str | None, expected: list[str] | str
) -> None:
    path = tmp_path / "wide.toml"
    sizes = f"tensor_parallel_size = {size}\npipeline_parallel_size = {stages}\nnodes_per_replica = {nodes}\n"
    path.write_text(f'name = "wide"\nmodel = "demo"\n[engine]\n{sizes}')
    run = plan_run(RunConfig(profile=str(path)), tmp_path / "runs")
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            gpus_per_replica(run, visible)
    else:
        assert gpus_per_replica(run, visible) == [expected]


@pytest.mark.parametrize(
    ("size", "stages", "nodes", "status"), [(4, 1, 2, "fail"), (2, 1, 2, "warn"), (2, 2, 4, "warn")]
)
def test_links_count_where_gpus_of_one_node_share_layers(size: int, stages: int, nodes: int, status: str) -> None:
    settings = profile(size, stages, nodes)
    broken = healthy(0, nvlinks=(True, False))
    reader = FakeReader(gpus=[broken, *(healthy(index) for index in range(1, gpus_needed(settings)))])
    found = gpu_checks(settings, reader, reader.driver(), reader.gpus, runs_dir=Path("runs"), event_interval_s=0)
    assert [check.status for check in found if check.name == "NVLink" and check.gpu == 0] == [status]
    [count] = [check for check in found if check.name == "GPU count"]
    assert (count.status, count.limit) == ("pass", f"{size * stages // nodes} for profile wide")


def test_the_plan_tells_the_nodes(tmp_path: Path) -> None:
    one, two = (plan(tmp_path, profile(8, 1, nodes), LLAMA_70B) for nodes in (1, 2))
    assert two.weight_bytes == one.weight_bytes
    told = []
    for found in (one, two):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(render_plan(found, ()))
        told.append("2 nodes of a Ray cluster, with 4 GPUs of each" in capture.get())
    assert told == [False, True]
