"""The files of a LoRA adapter as PEFT saves it, and the directories that a pattern of adapters stands for."""

import glob
from collections.abc import Callable
from pathlib import Path

from tasks.errors import ConfigError
from tasks.plain_text import quoted
from tasks.plan.checkpoints import step_key
from tasks.plan.model_config import read_model_object
from tasks.plan.safetensors_header import read_safetensors_header
from tasks.user_paths import names_below, split_pattern

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_adapter_pattern(text: str) -> bool:
    """Return whether ``text`` stands for the directories that match it. One that exists under that name does not."""
    return glob.has_magic(split_pattern(text)[1])


def matching_adapters(pattern: str, tell: Callable[[str], None]) -> list[str]:
    """Return the directories that match ``pattern`` and hold an adapter, in the order of the numbers in their names.

    Others are left out, as a trainer may be writing them; ``tell`` gets a sentence about each. Raises ConfigError when
    none is left.
    """
    directory, rest = split_pattern(pattern)
    if not glob.has_magic(rest):
        return [pattern]
    names = names_below(directory, rest)
    complete = []
    for name in sorted(names, key=step_key):
        path = directory / name
        if not path.is_dir():
            continue
        if lacks := _lacks(path):
            tell(f"left for another time, as the adapter is not complete: {path.name}: {lacks}")
        else:
            complete.append(str(path.absolute()))
    if not complete:
        raise ConfigError(
            f"adapter {quoted(pattern)} matches {len(names)} paths, none of them a directory with {CONFIG} and "
            f"{WEIGHTS}. Check the pattern, or name the directory"
        )
    return complete


def _lacks(path: Path) -> str:
    """Return why the directory ``path`` holds no whole adapter, or nothing."""
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            return f"it has no {name}"
    try:
        read_model_object(path / CONFIG, missing="")
        read_safetensors_header(path / WEIGHTS)
    except ConfigError as error:
        return str(error)
    return ""
