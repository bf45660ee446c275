"""The files of a LoRA adapter as PEFT saves it, and the directories that a pattern of adapters stands for."""

import glob
import re
from pathlib import Path

from tasks.errors import ConfigError
from tasks.user_paths import split_pattern

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_adapter_pattern(text: str) -> bool:
    """Return whether ``text`` stands for the directories that match it. One that exists under that name does not."""
    return glob.has_magic(split_pattern(text)[1])


def matching_adapters(pattern: str) -> list[str]:
    """Return the directories that match ``pattern`` and hold an adapter, in the order of the numbers in their names.

    Others are left out: a trainer may be writing them. Raises ConfigError when none is left.
    """
    directory, rest = split_pattern(pattern)
    if not glob.has_magic(rest):
        return [pattern]
    # unlike pathlib, glob leaves out hidden directories
    paths = [directory / name for name in glob.glob(rest, root_dir=directory)]  # noqa: PTH207
    complete = [path for path in paths if (path / CONFIG).is_file() and (path / WEIGHTS).is_file()]
    if not complete:
        raise ConfigError(
            f"adapter {pattern!r} matches {len(paths)} paths, none of them a directory with {CONFIG} and {WEIGHTS}. "
            "Check the pattern, or name the directory"
        )
    return [str(path.absolute()) for path in sorted(complete, key=_natural)]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]
