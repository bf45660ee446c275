"""Searches the settings of a profile that decide its speed, by measuring; the measurement itself is given.

The search goes along one setting after the other, the others at the best values so far. From the value that the profile
has it tries the next larger one, and goes on as long as that is faster; if the first step brings nothing, it tries the
smaller ones in the same way. So it takes about two trials per setting, where a grid would take dozens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profiles.load import parse_settings
from profiles.schema import AUTO, Profile
from profiles.settings import MOST_SEQUENCES

LEAST_GAIN = 1.02
"""How much faster a trial must be to count as faster: less is noise between two measurements."""
LEAST_SECONDS = 10.0
"""Time without which a measurement says little: a run fills the engines first and empties them at its end."""
MOST_DOUBLINGS = 3
"""How far the search goes from the profile's own batch, up and down."""
REPLICAS_PER_GPU = (1, 2, 3)

Values = Mapping[str, Any]
"""The value of each setting, by the setting's name."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a profile and the values to try."""

    name: str
    values: tuple[Any, ...]
    """In an order in which neighbours are alike."""
    given: Any
    """The profile's own value, one of ``values``."""
    change: Callable[[dict[str, Any], Any], None]
    """Puts a value into the plain values of a profile."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one candidate came to. A number is None when it was not measured."""

    label: str
    """The candidate in words: what it changes."""
    values: Values
    tokens_per_s: float | None = None
    """While generating; None for a candidate that failed."""
    running: float | None = None
    """Mean number of sequences that ran at once, over all replicas together."""
    kv_cache_usage: float | None = None
    """Mean share (of 1) of a replica's KV cache in use."""
    preemptions: int | None = None
    graph_step_share: float | None = None
    """Share (of 1) of the engine steps that ran in a CUDA graph."""
    seconds: float | None = None
    """Time that was measured."""
    failure: str = ""
    """Why there is no speed."""


def settings_of(profile: Profile, *, sequences: int, per_question: int, rollouts: int) -> list[Setting]:
    """Return the settings of ``profile`` to search.

    ``sequences`` are those that a replica has at once now, ``per_question`` the rollouts of a question, and
    ``rollouts`` those of the whole run: more sequences than it has cannot help.
    """
    found = []
    engine, on_gpu = profile.engine, profile.expect.device == "cuda"
    if engine.gpus == 1:
        found.append(
            Setting(
                name="engine core in its own process",
                values=(False, True),
                given=on_gpu if engine.core_process is None else engine.core_process,
                change=_change_core,
            )
        )
    if on_gpu and engine.gpus == 1:
        now = profile.replicas_per_gpu
        values = tuple(sorted({now, *REPLICAS_PER_GPU}))
        found.append(Setting(name="engines per GPU", values=values, given=now, change=_change_sharing))
    most = min(MOST_SEQUENCES, max(sequences, 2 * rollouts // profile.replicas))
    batches = [round(sequences * 2.0**step) for step in range(-MOST_DOUBLINGS, MOST_DOUBLINGS + 1)]
    allowed = tuple(count for count in batches if count == sequences or per_question <= count <= most)

    def change_batch(values: dict[str, Any], count: int) -> None:
        values["engine"]["max_num_seqs"] = count
        if values["question_batch_size"] != AUTO:
            values["question_batch_size"] = max(1, count // per_question)

    found.append(Setting(name="sequences per engine", values=allowed, given=sequences, change=change_batch))
    return found


def candidate(profile: Profile, settings: Sequence[Setting], values: Values) -> Profile:
    """Return ``profile`` with ``values``; what they leave as it is stays unstated. Raises SettingsError."""
    plain = profile.model_dump()
    for setting in settings:
        if values[setting.name] != setting.given:
            setting.change(plain, values[setting.name])
    return parse_settings(plain, Profile, "this candidate")


def label(settings: Sequence[Setting], values: Values) -> str:
    """Return ``values`` in words: those that differ from the profile's own."""
    changed = [f"{setting.name}: {_word(values[setting.name])}" for setting in settings if _differs(setting, values)]
    return ", ".join(changed) or "as given"


def search(settings: Sequence[Setting], measure: Callable[[Values], Trial]) -> None:
    """Call ``measure`` with one candidate after the other, first with the profile's own values."""
    best = {setting.name: setting.given for setting in settings}
    fastest = measure(best)
    for setting in settings:
        start = setting.values.index(setting.given)
        for step in (1, -1):
            place = start
            while 0 <= place + step < len(setting.values):
                tried = {**best, setting.name: setting.values[place + step]}
                trial = measure(tried)
                if not is_faster(trial, fastest):
                    break
                best, fastest, place = tried, trial, place + step
            if place != start:
                break


def fastest_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the best of ``trials``, which ``search`` made in this order; None when all of them failed."""
    best: Trial | None = None
    for trial in trials:
        if trial.tokens_per_s is not None and (best is None or is_faster(trial, best)):
            best = trial
    return best


def too_short(trials: Sequence[Trial]) -> str:
    """Return a warning when the shortest measurement of ``trials`` is too short to tell settings apart, else ""."""
    shortest = min((trial.seconds for trial in trials if trial.seconds is not None), default=LEAST_SECONDS)
    if shortest >= LEAST_SECONDS:
        return ""
    return (
        f"a candidate generated for {shortest:.1f} s, below the {LEAST_SECONDS:g} s that tell settings apart: the "
        "differences may be chance. Give more --questions or --minutes"
    )


def is_faster(trial: Trial, other: Trial) -> bool:
    """Return whether ``trial`` is faster than ``other`` by more than noise; one that failed is slower than any."""
    if trial.tokens_per_s is None:
        return False
    return other.tokens_per_s is None or trial.tokens_per_s > LEAST_GAIN * other.tokens_per_s


def _change_core(values: dict[str, Any], own: bool) -> None:
    values["engine"]["core_process"] = own


def _change_sharing(values: dict[str, Any], count: int) -> None:
    values["replicas"] = values["replicas"] // values["replicas_per_gpu"] * count
    values["replicas_per_gpu"] = count


def _differs(setting: Setting, values: Values) -> bool:
    return bool(values[setting.name] != setting.given)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}"
