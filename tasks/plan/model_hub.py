"""Fetch models of the Hugging Face hub into the hub's cache, if the disk has room for what is missing."""

import shutil
from pathlib import Path
from typing import Protocol

from tasks.errors import ConfigError, PreflightFailed
from tasks.files import DISK_FLOOR, nearest_existing
from tasks.units import GIB

_LEFT_OUT = ["*.pth", "original/*", "*.gguf", "*.onnx"]


class ModelHub(Protocol):
    """The place from which models are fetched."""

    @property
    def cache(self) -> Path:
        """Directory into which models are fetched."""
        ...

    def missing_bytes(self, name: str) -> int | None:
        """Return how many bytes a fetch of the model would add to the cache; None when the hub does not answer."""
        ...

    def fetch(self, name: str) -> Path:
        """Fetch the missing files of the model; return its directory in the cache, whose name is the commit."""
        ...


class HuggingFaceHub:
    """The real hub, or only its cache when the hub cannot be reached."""

    @property
    def cache(self) -> Path:
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE)

    def missing_bytes(self, name: str) -> int | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import DryRunError

        try:
            files = snapshot_download(name, ignore_patterns=_LEFT_OUT, dry_run=True)
        except DryRunError:  # no such model, no access to it or no connection; the fetch says which
            return None
        return sum(file.file_size or 0 for file in files if file.will_download)

    def fetch(self, name: str) -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, ignore_patterns=_LEFT_OUT))


def fetch_model(name: str, hub: ModelHub) -> Path:
    """Fetch the model ``name``; return its local directory, whose name is the commit.

    Raises ConfigError when the hub does not provide the model, PreflightFailed when the cache's disk has no room.
    """
    try:
        missing = hub.missing_bytes(name)
        _check_disk(name, missing or 0, nearest_existing(hub.cache))
        return hub.fetch(name)
    except PreflightFailed:
        raise
    except Exception as error:  # the library raises many unrelated types for a missing or unreachable repository
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"model {name!r} is neither a local directory nor a hub repository that can be fetched: {reason}. "
            'Check the name, or give a directory with config.json, or "demo"'
        ) from error


def _check_disk(name: str, missing: int, target: Path) -> None:
    free = shutil.disk_usage(target).free
    if missing and free < missing + DISK_FLOOR:
        raise PreflightFailed(
            f"model {name} needs {missing / GIB:.1f} GiB more on {target}, which has {free / GIB:.1f} GiB free, and "
            f"{DISK_FLOOR / GIB:g} GiB must stay free. Free space, or set HF_HOME to a directory on a larger disk"
        )
