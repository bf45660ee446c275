"""Find the files of a model, here or on the hub, and identify its weights, tokenizer and chat template by digests.

Models of the hub are fetched into the hub's cache, if the disk has room for what is missing.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from profiles.load import DEMO_MODEL
from profiles.nearest import nearest_files
from tasks.errors import ConfigError, PreflightFailed
from tasks.files import DISK_FLOOR, nearest_existing
from tasks.plan.adapter_files import CONFIG as ADAPTER_CONFIG
from tasks.plan.adapter_files import WEIGHTS as ADAPTER_WEIGHTS
from tasks.plan.model_files import TOKENIZER_FILES, check_model_files, weight_files
from tasks.units import GIB
from tasks.user_paths import user_path

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_LEFT_OUT = ["*.pth", "original/*", "*.gguf", "*.onnx"]
_SAMPLES_PER_FILE = 1024
_SAMPLE_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model: the name that the user gave, its local directory, and digests of the files.

    ``revision`` is the hub commit, or the first 12 hex digits of ``weights_digest`` for a local directory.
    """

    name: str
    path: Path
    revision: str
    weights_digest: str
    tokenizer_digest: str
    chat_template_digest: str


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


def find_model(name: str, *, load_format: str = "auto") -> ModelSource:
    """Locate and check the model ``name``: "demo", a local directory, or a hub id.

    Raises ConfigError, or PreflightFailed when the disk has no room for a model of the hub.
    """
    path, commit = locate_model(name)
    check_model_files(path, load_format=load_format)
    weights = weights_digest(path)
    return ModelSource(
        name=name,
        path=path,
        revision=commit or weights[:12],
        weights_digest=weights,
        tokenizer_digest=_files_digest(path, TOKENIZER_FILES),
        chat_template_digest=_files_digest(path, ("chat_template", "tokenizer_config")),
    )


def weights_digest(path: Path) -> str:
    """Return a hex digest that changes with config.json and with every training step of the weights in ``path``.

    Reads small files whole. Of large ones it reads the size, the first mebibyte and evenly spread samples: a training
    step changes almost every weight, and reading 140 GB would take minutes.
    """
    return digest_files([path / "config.json", *(weight_files(path) or sorted(path.glob("*.bin")))])


def adapter_digest(path: Path) -> str:
    """Return a hex digest of the files of the adapter in the directory ``path``, read as ``weights_digest`` does."""
    return digest_files([path / ADAPTER_CONFIG, path / ADAPTER_WEIGHTS])


def joint_digest(weights: str, adapter: str) -> str:
    """Return the digest of a model with an adapter beside it, from those of its weights and of the adapter's files."""
    return hashlib.sha256(f"{weights} {adapter}".encode()).hexdigest()


def digest_files(files: Iterable[Path]) -> str:
    """Return a hex digest of the names and contents of those of ``files`` that exist, as ``weights_digest`` reads."""
    digest = hashlib.sha256()
    for file in files:
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as opened:
            if size <= _SAMPLES_PER_FILE * _SAMPLE_BYTES * 8:
                digest.update(opened.read())
                continue
            digest.update(opened.read(1 << 20))
            for sample in range(_SAMPLES_PER_FILE):
                opened.seek(size * sample // _SAMPLES_PER_FILE)
                digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def locate_model(name: str, hub: ModelHub | None = None) -> tuple[Path, str | None]:
    """Return the directory of the model, and its commit if it is from the hub. Opens no file.

    Raises ConfigError, or PreflightFailed when the disk has no room for a model of the hub.
    """
    if name == "demo":
        return DEMO_MODEL, None
    path = user_path(name)
    if path.is_dir():
        return path.resolve(), None
    if path.exists() or not _HUB_ID.match(name) or name.startswith((".", "/", "~")):
        raise ConfigError(
            f"model {name!r} is not a directory.{'' if path.exists() else nearest_files(path)} Give a directory with "
            'config.json, a hub id such as org/name, or "demo"'
        )
    snapshot = fetch_model(name, hub or HuggingFaceHub())
    return snapshot, snapshot.name


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


def _files_digest(path: Path, prefixes: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.name.startswith(prefixes):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
