"""``--engine key=value``: settings of the engine that one run changes, whatever its profile says."""

import datetime
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from profiles.engine_settings import EngineSettings
from profiles.load import SettingsError, parse_settings, short_repr
from profiles.regular_files import parse_json
from profiles.schema import Profile
from tasks.errors import ConfigError

_BRACKETS = ("{", "[", '"', "'")


def read_engine_options(given: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any] | None:
    """Return engine settings by name: a mapping as it is, or the texts KEY=VALUE of a command line.

    Raises ConfigError.
    """
    if given is None or isinstance(given, Mapping):
        return None if given is None else dict(given)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(f"engine is {short_repr(given)}. Give a table of settings, such as {{kv_cache_dtype: fp8}}")
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--engine {short_repr(text)} has no value. Give KEY=VALUE, such as kv_cache_dtype=fp8")
        if key in found:
            raise ConfigError(f"--engine gives {key} twice. Give it once")
        found[key] = _value(key, value.strip())
    return found


def engine_options_text(settings: Mapping[str, Any]) -> list[str]:
    """Return the texts KEY=VALUE that ``read_engine_options`` reads as ``settings``."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]


def changed_profile(profile: Profile, settings: Mapping[str, Any] | None) -> Profile:
    """Return ``profile`` with the engine ``settings``. Raises ConfigError, which names the first wrong one."""
    if not settings:
        return profile
    values = profile.model_dump() | {"engine": changed_engine(profile.engine.model_dump(), settings)}
    try:
        return parse_settings(values, Profile, f"--engine, with profile {profile.name}")
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def changed_engine(engine: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an engine with the ``settings``: ours under their names, others in the table for vLLM.

    One that is None is left to vLLM, as if the profile had not stated it.
    """
    changed = dict(engine) | {"vllm": dict(engine.get("vllm", {}))}
    for key, value in settings.items():
        if key in EngineSettings.model_fields and key != "vllm":
            changed[key] = value
        elif value is None:
            changed["vllm"].pop(key, None)
        else:
            changed["vllm"][key] = value
    return changed


def _value(key: str, text: str) -> Any:
    """Return ``text`` as JSON or TOML reads it; what neither reads is a text, as users write it."""
    try:
        return _plain(parse_json(text, unique_names=True))
    except ValueError:
        pass
    try:
        return _plain(tomllib.loads(f"value = {text}")["value"]) if "\n" not in text else text
    except (ValueError, RecursionError):
        if text.startswith(_BRACKETS):
            raise ConfigError(
                f"--engine {key}={short_repr(text)} is neither JSON nor TOML. Give a value such as "
                '{"method": "ngram"}, in quotes for the shell'
            ) from None
        return text


def _plain(value: Any) -> Any:
    """Return ``value``. Raises ValueError for one that is a word here: a date, or a number that is none."""
    if isinstance(value, datetime.date | datetime.time) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(value)
    return value
