"""The files of a LoRA adapter as PEFT saves it, and the directories that a pattern of adapters stands for."""

import glob

from tasks.errors import ConfigError
from tasks.plan.checkpoints import step_key
from tasks.user_paths import names_below, split_pattern

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
    names = names_below(directory, rest)
    complete = [name for name in names if all((directory / name / file).is_file() for file in (CONFIG, WEIGHTS))]
    if not complete:
        raise ConfigError(
            f"adapter {pattern!r} matches {len(names)} paths, none of them a directory with {CONFIG} and {WEIGHTS}. "
            "Check the pattern, or name the directory"
        )
    return [str((directory / name).absolute()) for name in sorted(complete, key=step_key)]
