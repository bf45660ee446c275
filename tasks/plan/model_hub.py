"""Models of the Hugging Face hub: how much of one is still to be downloaded, and fetching it into the hub's cache."""

import shutil
from pathlib import Path
from typing import Protocol

from tasks.errors import ConfigError, PreflightFailed
from tasks.files import DISK_FLOOR, nearest_existing
from tasks.units import GIB

_LEFT_OUT = ["*.pth", "original/*", "*.gguf", "*.onnx"]


class ModelHub(Protocol):
    """Where models come from when they are no directory here."""

    @property
    def cache(self) -> Path:
        """Directory into which models are fetched."""
        ...

    def missing_bytes(self, name: str) -> int | None:
        """What a fetch of the model would add to the cache, or None when the hub cannot be asked."""
        ...

    def fetch(self, name: str) -> Path:
        """The model's directory in the cache, named by its commit, after fetching what is missing of it."""
        ...


class HuggingFaceHub:
    """The real hub, or its cache alone where it cannot be reached."""

    @property
    def cache(self) -> Path:
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE)

    def missing_bytes(self, name: str) -> int | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import DryRunError

        try:
            files = snapshot_download(name, ignore_patterns=_LEFT_OUT, dry_run=True)
        except DryRunError:  # no such model, no right to it or no connection: fetching it tells which
            return None
        return sum(file.file_size or 0 for file in files if file.will_download)

    def fetch(self, name: str) -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, ignore_patterns=_LEFT_OUT))


def fetch_model(name: str, hub: ModelHub) -> Path:
    """The local directory of the model ``name``, named by its commit.

    Raises ConfigError when the hub does not give the model, PreflightFailed when the disk of the cache cannot take it.
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
