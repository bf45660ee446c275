"""Reads profiles and arms from TOML files: shipped ones by name, the user's own by path."""

import re
import reprlib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from profiles.arm_schema import ArmSet
from profiles.engine_settings import EngineSettings
from profiles.nearest import did_you_mean, nearest_files
from profiles.regular_files import read_regular_text
from profiles.schema import Profile
from profiles.settings import FROM_USER, Settings
from profiles.vllm_keys import RETIRED_ENGINE_KEYS, is_vllm_key, nearest_keys, why_refused

PROFILES_DIR = Path(__file__).parent
DEMO_MODEL = PROFILES_DIR / "demo" / "model"
STARTER_DIR = PROFILES_DIR / "starter"
"""What harvest init writes beside a profile."""
DEFAULT_ARMS = PROFILES_DIR / "arms" / "math8.toml"

_DEEP_KEY = re.compile(r"^[ \t\[]*[\w\"'-]+(?:[ \t]*\.[ \t]*[\w\"'-]+){50,}", re.MULTILINE)
"""A dotted key of more parts than any setting has: tomllib's time grows with the square of their number."""

_MOST_PROBLEMS = 10
"""So many problems of a file are told."""

_S = TypeVar("_S", bound=Settings)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class SettingsError(ValueError):
    """A settings file is missing or wrong. The message names file and field, what is allowed and what to do."""


def profile_names() -> list[str]:
    """Names of the shipped profiles, sorted."""
    return sorted(path.stem for path in PROFILES_DIR.glob("*.toml"))


def arms_names() -> list[str]:
    """Names of the shipped sets of arms, sorted."""
    return sorted(path.stem for path in DEFAULT_ARMS.parent.glob("*.toml"))


def load_profile(name_or_path: str) -> Profile:
    """The shipped profile of that name, or the profile in that TOML file. Raises SettingsError."""
    if name_or_path.endswith(".toml"):
        return _load(Path(name_or_path), Profile, "profile")
    path = PROFILES_DIR / f"{name_or_path}.toml"
    if name_or_path not in profile_names():
        raise SettingsError(
            f"unknown profile {name_or_path!r}; the shipped ones are {', '.join(profile_names())}."
            f"{did_you_mean(name_or_path, profile_names())} "
            'Give one of these, the path of your own .toml file, or, where a run is defined, "auto"'
        )
    return _load(path, Profile, "profile")


def load_arms(name_or_path: str | None) -> ArmSet:
    """Arms from a TOML file, from a shipped set by name, or the default set. Raises SettingsError."""
    if name_or_path is None:
        return _load(DEFAULT_ARMS, ArmSet, "arms file")
    if name_or_path.endswith(".toml"):
        return _load(Path(name_or_path), ArmSet, "arms file")
    if name_or_path not in arms_names():
        raise SettingsError(
            f"unknown arms {name_or_path!r}; the shipped sets are {', '.join(arms_names())}."
            f"{did_you_mean(name_or_path, arms_names())} Give one of these, or the path of a .toml file"
        )
    return _load(DEFAULT_ARMS.with_stem(name_or_path), ArmSet, "arms file")


def _load(path: Path, kind: type[_S], what: str) -> _S:
    try:
        text = read_regular_text(path)
        if _DEEP_KEY.search(text):
            raise RecursionError
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise SettingsError(f"{what} {path} does not exist.{nearest_files(path)} Check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{what} {path} cannot be read: {error}. Give a TOML file") from None
    except RecursionError:
        raise SettingsError(f"{what} {path} is nested too deeply. Give a file with the keys that it may have") from None
    except ValueError as error:  # also for a date that no calendar has
        raise SettingsError(f"{what} {path} is not valid TOML: {error}") from None
    return parse_settings(values, kind, f"{what} {path}")


def parse_settings(values: dict[str, Any], kind: type[_S], origin: str) -> _S:
    """``values`` as a ``kind``. Raises SettingsError: one line that names ``origin`` and every wrong field."""
    try:
        return kind.model_validate(values, context=FROM_USER)
    except ValidationError as error:
        raise SettingsError(f"{origin}: {explain(error, kind)}") from None


def short_repr(value: object) -> str:
    """``repr`` of a value that somebody else gave, without the middle of what is long."""
    return _SHORT.repr(value)


def explain(error: ValidationError, kind: type[Settings]) -> str:
    """One line about all problems in ``error``: for each the field, the value given, what is allowed."""
    problems = error.errors(include_url=False)
    wrong = {problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))}
    # a list counts as too short when what is in it is wrong
    problems = [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in wrong]
    told = list(dict.fromkeys(_problem(problem, kind) for problem in problems))
    if len(told) == 1:
        return told[0]
    listed = "; ".join(f"({number}) {each}" for number, each in enumerate(told[:_MOST_PROBLEMS], start=1))
    more = f"; and {len(told) - _MOST_PROBLEMS} more" if len(told) > _MOST_PROBLEMS else ""
    return f"{len(told)} problems: {listed}{more}"


def _problem(problem: ErrorDetails, kind: type[Settings]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"]
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        if key in RETIRED_ENGINE_KEYS:
            return f"{where} is no longer an engine argument: {RETIRED_ENGINE_KEYS[key]}"
        allowed = _fields_at(kind, problem["loc"][:-1])
        if allowed == sorted(EngineSettings.model_fields):
            return _unknown_engine_key(key, where, allowed)
        near = did_you_mean(key, allowed)
        return f"unknown key {where}.{near}" if near else f"unknown key {where}; allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    return f"{where} is {short_repr(problem['input'])}: {message[:1].lower()}{message[1:]}"


def _unknown_engine_key(key: str, where: str, own: list[str]) -> str:
    if is_vllm_key(key):
        if (why := why_refused(key)) is not None:
            return f"{where} is not passed on: {why}"
        return f"{where} is a field of vLLM's EngineArgs. Put it into the table [engine.vllm]"
    near = nearest_keys(key, own)
    if near:
        return f"unknown key {where}. Did you mean {' or '.join(near)}?"
    return f"unknown key {where}; allowed here: {', '.join(own)}; other fields of EngineArgs in [engine.vllm]"


def _fields_at(kind: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[part].annotation if isinstance(part, str) and part in kind.model_fields else None
        if get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            kind = annotation
    return sorted(kind.model_fields)
