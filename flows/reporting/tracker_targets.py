"""What ``--log-to`` may name: the trackers, and which package each of them needs."""

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from tasks.errors import ConfigError
from tasks.extras import add_extra
from tasks.user_paths import check_directory, user_path

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""The package that writes for each tracker. The extra of the same name as the tracker installs it."""


@dataclass(frozen=True, kw_only=True)
class TrackerTarget:
    """One tracker to which runs are logged."""

    text: str
    """As it was given."""
    tracker: str
    """A name in ``_PACKAGES``."""
    place: str
    """The project of wandb; the directory of tensorboard, "" for that of the run."""

    @classmethod
    def read(cls, text: str) -> "TrackerTarget":
        tracker, _, place = text.partition(":")
        # the shell expands ~ at the start of a word only
        place = os.path.expanduser(place) if tracker == "tensorboard" else place  # noqa: PTH111
        return cls(text=text, tracker=tracker, place=place)


def check_trackers(log_to: Iterable[str]) -> None:
    """Raise ConfigError when the package of a tracker is not installed, or its directory cannot be written.

    Imports none of them, and leaves nothing behind.
    """
    for text in log_to:
        target = TrackerTarget.read(text)
        tracker, package = target.tracker, _PACKAGES[target.tracker]
        if tracker == "tensorboard" and target.place:
            check_directory(user_path(target.place), "the directory of --log-to")
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--log-to {text} needs the package {package}, which is not installed. Install it: {add_extra(tracker)}"
            )


def _check(text: str) -> str:
    target = TrackerTarget.read(text)
    if target.tracker not in _PACKAGES or (target.tracker == "wandb" and not target.place) or text.endswith(":"):
        raise PydanticCustomError("tracker", "give wandb:PROJECT, tensorboard or tensorboard:DIRECTORY")
    return text


TargetText = Annotated[str, AfterValidator(_check)]
"""A tracker as users name it."""
