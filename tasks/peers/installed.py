"""The contestants of this room by name, and which of them this environment can run."""

from importlib.util import find_spec

LIMIT = "limit"
FEATURES = "features"
MODULES = {
    LIMIT: "one_call",
    FEATURES: "one_call",
    "vllm-serve": "vllm_serve",
    "datatrove": "datatrove_runner",
    "ray": "ray_data",
}
"""Module of this room by contestant."""
PEERS = ("vllm-serve", "datatrove", "ray")
"""What others use in the pipeline's place."""
_NEEDS = {"vllm-serve": ("vllm", "aiohttp"), "datatrove": ("vllm", "datatrove"), "ray": ("vllm", "ray")}
INSTALL = {
    "vllm-serve": "vllm aiohttp",
    "datatrove": '"datatrove[inference]"',
    "ray": '"ray[data,llm]"',
}
"""What ``pip install`` must get for each peer."""


def installed_peers() -> tuple[str, ...]:
    """Return the peers whose packages are here. Imports none of them."""
    return tuple(peer for peer in PEERS if all(find_spec(package) is not None for package in _NEEDS[peer]))
