"""What the engine of a replica on several nodes finds in its environment, and what it keeps from the other nodes."""

import os

import pytest

from profiles.engine_settings import EngineSettings
from tasks.generation.engine_environment import engine_environment
from tasks.generation.ray_group import group_variables, placement_group, private_variables


def test_the_group_is_found_by_its_id() -> None:
    ray = pytest.importorskip("ray")
    given = ray.PlacementGroupID.from_random().hex()
    assert placement_group(group_variables("head:6379", given)).id.hex() == given


def test_credentials_and_what_is_of_a_node_stay_on_it() -> None:
    own = {
        *("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PREFECT_API_KEY", "WANDB_API_KEY", "VLLM_API_KEY"),
        *("HOME", "PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "VLLM_RPC_BASE_PATH"),
        *("HARVEST_PARENT_PID", "HARVEST_NODE", "RAY_ADDRESS", "NCCL_SOCKET_IFNAME"),
    }
    shared = {
        "VLLM_BATCH_INVARIANT",
        "VLLM_CACHE_ROOT",
        "TORCHINDUCTOR_CACHE_DIR",
        "NCCL_DEBUG",
        "TOKENIZERS_PARALLELISM",
    }
    assert private_variables(own | shared) == own


def test_an_engine_over_several_nodes_forks_its_core_and_has_the_executor_that_was_tried() -> None:
    user = {"VLLM_USE_RAY_V2_EXECUTOR_BACKEND": "0", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    wide = engine_environment(EngineSettings(tensor_parallel_size=2, nodes_per_replica=2), user, on_gpu=True)
    assert [wide[name] for name in user] == ["1", "fork"]
    one = engine_environment(EngineSettings(tensor_parallel_size=2), user, on_gpu=True)
    assert [one[name] for name in user] == ["0", "spawn"]
    # layers that are split between nodes, or stages that are not
    symmetric = "VLLM_ALLREDUCE_USE_SYMM_MEM"
    staged = EngineSettings(tensor_parallel_size=2, pipeline_parallel_size=2, nodes_per_replica=2)
    assert (wide[symmetric], one.get(symmetric)) == ("0", None)
    assert symmetric not in engine_environment(staged, user, on_gpu=True)
    # what decides what is computed reaches all nodes
    strict = EngineSettings(tensor_parallel_size=2, nodes_per_replica=2, batch_invariant=True)
    told = engine_environment(strict, {}, on_gpu=True).keys() - os.environ.keys()
    assert not private_variables(told)
