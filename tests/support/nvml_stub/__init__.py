"""Builds the stub of NVIDIA's management library, and the environment in which a child process loads it."""

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "stub.c"
REPOSITORY = Path(__file__).parents[3]


def has_compiler() -> bool:
    return shutil.which("gcc") is not None


def build_stub(folder: Path) -> Path:
    """Compile ``libnvidia-ml.so.1`` into ``folder`` and lay a torch beside it that says it was built for CUDA 12.8."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(SOURCE)], check=True)
    torch = folder / "site" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("")
    (torch / "version.py").write_text("cuda = '12.8'\n")
    return folder


def stub_environment(folder: Path, fault: str = "", **more: str) -> dict[str, str]:
    """Environment of a child that sees the stub's GPUs; ``fault`` is one of the names in stub.c."""
    kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    paths = [str(folder / "site"), str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder), kept.get("LD_LIBRARY_PATH")])),
        "PYTHONPATH": os.pathsep.join(paths),
        "NVML_STUB_FAULT": fault,
        **more,
    }
