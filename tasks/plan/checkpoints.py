"""Finds the checkpoints that a pattern means, in the order of their steps."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError
from tasks.plain_text import quoted
from tasks.plan.model_files import check_model_files, weight_files
from tasks.user_paths import names_below, split_pattern

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The directories that a pattern means: ``complete`` ones in the order of their steps, at least one."""

    complete: tuple[Path, ...]
    incomplete: tuple[str, ...]
    """Of each directory that is no complete model, as a trainer still writes it, its name and what it lacks."""

    @property
    def newest(self) -> Path:
        """The one with the newest weights: a trainer may begin again at a lower step."""
        return max(self.complete, key=lambda path: (_written(path), str(path)))


def is_model_pattern(model: str) -> bool:
    """Return whether ``model`` may mean several directories, or another one at another time."""
    directory, rest = split_pattern(model)
    return glob.has_magic(rest) or (not rest and directory.is_symlink())


def find_checkpoints(pattern: str) -> Checkpoints:
    """Return the model directories that match ``pattern``. Raises ConfigError when none is complete."""
    directory, rest = split_pattern(pattern)
    names = names_below(directory, rest) if rest else [""]
    complete: list[tuple[str, Path]] = []
    incomplete: list[str] = []
    for name in names:
        path = directory / name
        if not path.is_dir():
            continue
        try:
            check_model_files(path)
        except ConfigError as error:
            incomplete.append(f"{name or path.name}: {error}")
        else:
            complete.append((name, path))
    if not complete:
        raise ConfigError(
            f"model {quoted(pattern)} matches {len(names)} paths, none of them a directory with a complete model. "
            + (f"The last is {incomplete[-1]}" if incomplete else "Check the pattern, or name the directory")
        )
    complete.sort(key=lambda item: (step_key(item[0]), _written(item[1]), item[0]))
    # two names may be links to one directory
    paths = tuple(dict.fromkeys(path.resolve() for _, path in complete))
    return Checkpoints(complete=paths, incomplete=tuple(incomplete))


def step_key(name: str) -> tuple[int, ...]:
    """Return the numbers in ``name``, by which checkpoints are ordered: step-900 comes before step-1000."""
    return tuple(int(number) for number in _NUMBER.findall(name))


def steps_of(names: Sequence[str]) -> list[int]:
    """Return the step of each of the names: the last number that differs between them, else 1, 2, 3 and so on."""
    keys = [step_key(name) for name in names]
    if len(names) > 1 and len({len(key) for key in keys}) == 1:
        for column in reversed(list(zip(*keys, strict=True))):
            if len(set(column)) == len(names):
                return list(column)
    return list(range(1, len(names) + 1))


def _written(path: Path) -> float:
    return max((file.stat().st_mtime for file in weight_files(path)), default=0.0)
