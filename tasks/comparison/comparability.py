"""Checks that two runs may be compared, and lists the settings that a comparison tests.

A comparison tests one change, such as another batch size. It would mean nothing if the runs also had another model,
other prompts or another temperature, so such runs are refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.errors import ConfigError
from tasks.plan.fingerprint import STOPPING
from tasks.records import RunPaths
from tasks.storage.published import read_published

COMPARABLE_KEYS = ("model", "tokenizer", "chat_template", "arms", "dataset", "sampling", "seed")
"""Settings that two runs must share, except ``dataset``: a baseline may be a sample, so the rows are compared."""

ABSENT = "(absent)"
_SAMPLES = "samples_per_arm"
_NUMBER_FORMAT = frozenset({"dtype", "quantization", "kv_cache_dtype"})


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Names one of the two runs."""

    run_id: str
    """The run's id; the directory's name when ``config.json`` has none."""
    path: str
    """The run's directory, as the caller gave it."""
    fingerprint: str
    """The fingerprint in the run's ``config.json``; empty when it has none."""


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """One setting that differs between the runs."""

    name: str
    """The setting's name; nested settings have dotted names."""
    baseline: Any
    """The value in the baseline; ABSENT when it does not state the setting."""
    candidate: Any
    """The value in the candidate; ABSENT when it does not state the setting."""

    def __str__(self) -> str:
        return f"{self.name}: {self.baseline!r} in the baseline, {self.candidate!r} in the candidate"


@dataclass(frozen=True, kw_only=True)
class Comparability:
    """Two runs that may be compared."""

    baseline: RunIdentity
    candidate: RunIdentity
    same_dataset: bool
    """False when one run has other questions too."""
    baseline_is_sample: bool
    """True when the configurations state that the baseline was made of fewer questions than the candidate."""
    tested: tuple[SettingDifference, ...]
    """Settings that differ between the runs."""

    @property
    def number_format_differs(self) -> bool:
        """True when the runs compute in different number formats, so that larger differences are expected."""
        return any(difference.name in _NUMBER_FORMAT for difference in self.tested)


def check_comparable(baseline: Path, candidate: Path) -> Comparability:
    """What a comparison of two run directories would test, by their ``config.json``.

    Raises ConfigError when a directory holds no run, or when the runs differ in a setting of COMPARABLE_KEYS other
    than ``dataset``; the error names both values of each.
    """
    configs = [read_comparable_config(path) for path in (baseline, candidate)]
    first, second = (config["comparable"] for config in configs)
    tested = [{**config.get("tested", {}), **_stopping(config["comparable"])} for config in configs]
    _refuse_differences(first, second, f"{baseline} and {candidate}")
    return Comparability(
        baseline=_identity(baseline, configs[0]),
        candidate=_identity(candidate, configs[1]),
        same_dataset=first["dataset"] == second["dataset"],
        baseline_is_sample=_is_sample(*configs),
        tested=tuple(_differences(*tested)),
    )


def check_planned_settings(baseline: Path, planned: Mapping[str, Any], run_id: str) -> None:
    """Raise ConfigError when a run of the ``planned`` settings cannot be compared with ``baseline``.

    This is the check of ``check_comparable`` before the run is generated.
    """
    # config.json holds them in this form
    settings = json.loads(json.dumps(planned))
    _refuse_differences(read_comparable_config(baseline)["comparable"], settings, f"{baseline} and the run {run_id}")


def _refuse_differences(baseline: Mapping[str, Any], candidate: Mapping[str, Any], named: str) -> None:
    settings = [_must_be_shared(own, other) for own, other in ((baseline, candidate), (candidate, baseline))]
    if fixed := list(_differences(*settings)):
        raise ConfigError(
            f"{named} cannot be compared: "
            + "; ".join(map(str, fixed))
            + ". Compare runs that share "
            + ", ".join(COMPARABLE_KEYS)
        )


def read_comparable_config(root: Path) -> dict[str, Any]:
    """A run's ``config.json``.

    Raises ConfigError when the directory holds no run that can be compared, DamagedFile when the file is damaged.
    """
    path = RunPaths(root=root).config
    if not root.is_dir():
        raise ConfigError(f"{root} is not a directory. Give the directory of a finished run")
    config: dict[str, Any] | None = read_published(path, dict[str, Any])
    if config is None or not isinstance(config.get("comparable"), dict):
        raise ConfigError(f"{path} is missing or not a run's configuration. Give the directory of a finished run")
    lacking = [key for key in COMPARABLE_KEYS if key not in config["comparable"]]
    if lacking:
        raise ConfigError(f"{path} does not state {', '.join(lacking)} under comparable. Generate the run again")
    return config


def _identity(root: Path, config: Mapping[str, Any]) -> RunIdentity:
    return RunIdentity(
        run_id=str(config.get("run_id", root.name)), path=str(root), fingerprint=str(config.get("fingerprint", ""))
    )


def stated_count(config: Mapping[str, Any], name: Literal["num_questions", "num_rollouts"]) -> int | None:
    """How many questions or rollouts a run was made to have, by its ``config.json``; None when that states none."""
    value = config.get(name)
    return value if type(value) is int else None


def _is_sample(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> bool:
    of_baseline, of_candidate = (stated_count(config, "num_questions") for config in (baseline, candidate))
    return of_baseline is not None and of_candidate is not None and of_baseline < of_candidate


def _must_be_shared(comparable: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two runs must share. How many samples a group has is no part of it where groups stop by a rule."""
    shared = {key: value for key, value in comparable.items() if key not in ("dataset", STOPPING)}
    if STOPPING in comparable or STOPPING in other:
        shared["sampling"] = {name: value for name, value in shared["sampling"].items() if name != _SAMPLES}
    return shared


def _stopping(comparable: Mapping[str, Any]) -> dict[str, Any]:
    return {STOPPING: comparable[STOPPING]} if STOPPING in comparable else {}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[SettingDifference]:
    flat = [dict(_flatten(settings)) for settings in (first, second)]
    for name in dict.fromkeys([*flat[0], *flat[1]]):
        values = [settings.get(name, ABSENT) for settings in flat]
        if values[0] != values[1]:
            yield SettingDifference(name=name, baseline=values[0], candidate=values[1])


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
