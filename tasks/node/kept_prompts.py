"""Keeps what was found of prompts on this node: rendering them again imports transformers, which takes seconds.

Only prompts of which there is nothing to say are kept, for all runs that leave them room. What is wrong with others is
found anew each time.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from profiles.arm_schema import Arm
from tasks.errors import DamagedFile, StorageError
from tasks.files import publish_json, read_record
from tasks.node.engine_caches import CACHE_VARIABLE
from tasks.node.prompt_sample import PromptOrder, PromptSample

_PACKAGE = Path(__file__).parents[2]
_CODE = ("profiles", "tasks/node", "tasks/plan", "tasks/scoring")
"""Where the code is that renders and judges prompts."""
_LIBRARIES = ("jinja2", "tokenizers", "transformers")
_MODEL_FILES = ("*", "additional_chat_templates/*")
"""Where transformers finds tokenizers and chat templates."""
_ROOM = ("max_tokens", "max_model_len")
"""Of an order: they decide nothing else than whether the longest prompt has room."""
_MOST_BYTES = 64 << 20
"""Tokenizers are smaller."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    found: PromptSample
    digest: str
    """Of ``found``: the files that hold it have no record beside them."""


def kept_path(order: PromptOrder, environment: Mapping[str, str]) -> Path | None:
    """Return where the finding of ``order`` is kept: a name for all that decides it but the room for prompts. None when
    nothing is kept.

    What code of a model does, nobody knows, so that its prompts are rendered each time.
    """
    if order.trust_remote_code:
        return None
    asked = {name: value for name, value in asdict(order).items() if name not in _ROOM}
    digest = hashlib.sha256(json.dumps(asked, default=_plain, sort_keys=True).encode())
    try:
        for name in _LIBRARIES:
            digest.update(f"{name} {metadata.version(name)};".encode())
        for path in (*_sources(), *_model_files(order.model_path)):
            digest.update(f"{path} {path.stat().st_size};".encode())
            digest.update(path.read_bytes())
        return _directory(environment) / f"{digest.hexdigest()[:32]}.json"
    except (OSError, RuntimeError, metadata.PackageNotFoundError):
        return None


def read_kept(path: Path, order: PromptOrder) -> PromptSample | None:
    """Return the finding in ``path``; None when there is none, when it is damaged, or when ``order`` leaves prompts no
    room.
    """
    try:
        kept = read_record(path, _Kept)
    except DamagedFile:
        return None
    if kept is None or kept.digest != _digest(kept.found) or kept.found.lengths is None:
        return None
    return kept.found if kept.found.lengths.longest <= order.max_model_len - order.max_tokens else None


def keep(found: PromptSample, path: Path) -> None:
    """Keep the finding in ``path``, if there is nothing to say of the prompts and the directory takes writes."""
    if found.problems or found.warnings:
        return
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_json(asdict(_Kept(found=found, digest=_digest(found))), path)


def _sources() -> list[Path]:
    return sorted(path for folder in _CODE for path in (_PACKAGE / folder).glob("*.py"))


def _model_files(model: Path) -> list[Path]:
    """The files from which the tokenizer and its chat templates are made, and others that are not weights."""
    found = (path for pattern in _MODEL_FILES for path in model.glob(pattern) if path.suffix != ".safetensors")
    return sorted(path for path in found if path.is_file() and path.stat().st_size <= _MOST_BYTES)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Arm) else str(value)


def _directory(environment: Mapping[str, str]) -> Path:
    if base := environment.get(CACHE_VARIABLE):
        return Path(base).expanduser() / "prompts"
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rollout-harvest" / "prompts"


def _digest(found: PromptSample) -> str:
    return hashlib.sha256(json.dumps(asdict(found), sort_keys=True).encode()).hexdigest()
