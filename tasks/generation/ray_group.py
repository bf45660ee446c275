"""How an engine finds the placement group that was made for its replica on several nodes of a Ray cluster.

The replica is no actor of Ray, which would make vLLM's own search find nothing: it gets the group from its environment.
vLLM sends its environment to the processes on the other nodes, and what is the node's own or secret must not go along.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own: the cluster that a process joins, as vLLM's engine core does."""
GROUP_VARIABLE = "HARVEST_RAY_GROUP"
_SHARED = (
    "VLLM_",
    "NCCL_",
    "TORCH",
    "TRITON_",
    "FLASHINFER_",
    "CUDA_CACHE_",
    "CUDA_DEVICE_ORDER",
    "TOKENIZERS_",
    "OMP_",
)
"""What the variables begin with that say how an engine computes, and where it keeps what it compiles."""
_OF_THE_NODE = {"VLLM_RPC_BASE_PATH", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS"}
_SECRET = ("_KEY", "_TOKEN")


def group_variables(address: str, group: str) -> dict[str, str]:
    """Return what the environment of a replica has to name: the head's address and the hex id of the group."""
    return {ADDRESS_VARIABLE: address, GROUP_VARIABLE: group}


def placement_group(environment: Mapping[str, str] = os.environ) -> Any:
    """Return the group of this process's engine as Ray's PlacementGroup. Needs no connection to the cluster."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID(bytes.fromhex(environment[GROUP_VARIABLE])))


def private_variables(names: Iterable[str]) -> set[str]:
    """Return those of ``names`` that must not reach the processes of other nodes."""
    return {name for name in names if name in _OF_THE_NODE or name.endswith(_SECRET) or not name.startswith(_SHARED)}
