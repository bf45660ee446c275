"""The search for a profile's fastest settings, on made-up speeds."""

from collections.abc import Callable
from typing import Any

import pytest

from profiles.load import load_profile
from profiles.schema import AUTO, Profile
from tasks.results.tuning import (
    LEAST_GAIN,
    LEAST_SECONDS,
    Setting,
    Trial,
    Values,
    candidate,
    fastest_of,
    label,
    search,
    settings_of,
    too_short,
)


def setting(name: str, values: tuple[Any, ...], given: Any) -> Setting:
    def change(plain: dict[str, Any], value: Any) -> None:
        plain[name] = value

    return Setting(name=name, values=values, given=given, change=change)


BATCH = setting("batch", (64, 128, 256, 512, 1024), 256)
SHARING = setting("sharing", (1, 2, 3), 1)
CORE = setting("core", (False, True), True)


def tried(settings: list[Setting], speed: Callable[[Values], float | None]) -> tuple[list[Values], Trial | None]:
    """The candidates in the order of the search, and the best of them."""
    trials: list[Trial] = []

    def measure(values: Values) -> Trial:
        found = speed(values)
        trials.append(
            Trial(label=label(settings, values), values=values, tokens_per_s=found, failure="" if found else "broke")
        )
        return trials[-1]

    search(settings, measure)
    return [trial.values for trial in trials], fastest_of(trials)


@pytest.mark.parametrize(
    ("speeds", "order", "best"),
    [
        ({256: 100, 512: 90, 128: 80}, [256, 512, 128], 256),
        ({256: 100, 512: 120, 1024: 110}, [256, 512, 1024], 512),
        ({256: 100, 512: 120, 1024: 140}, [256, 512, 1024], 1024),
        ({256: 100, 512: 90, 128: 120, 64: 130}, [256, 512, 128, 64], 64),
        # less than the noise is no gain
        ({256: 100, 512: 100 * LEAST_GAIN, 128: 101}, [256, 512, 128], 256),
        # one that fails is passed over, and so is a profile that fails itself
        ({256: 100, 512: None, 128: 120, 64: None}, [256, 512, 128, 64], 128),
        ({256: None, 512: None, 128: 120, 64: 90}, [256, 512, 128, 64], 128),
        ({256: None, 512: None, 128: None}, [256, 512, 128], None),
    ],
)
def test_the_search_follows_the_gain(speeds: dict[int, float | None], order: list[int], best: int | None) -> None:
    found, fastest = tried([BATCH], lambda values: speeds[values["batch"]])
    assert [values["batch"] for values in found] == order
    assert (None if fastest is None else fastest.values["batch"]) == best


def test_settings_are_searched_one_after_the_other_at_the_best_of_the_others() -> None:
    def speed(values: Values) -> float:
        return (1.5 if values["sharing"] == 2 else 1.0) * (0.8 if values["core"] else 1.0) * values["batch"]

    found, best = tried([CORE, SHARING, BATCH], speed)
    assert best is not None
    assert best.values == {"core": False, "sharing": 2, "batch": 1024}
    # a grid has 30
    assert len(found) == 6
    assert len({tuple(values.values()) for values in found}) == len(found)


def test_the_best_of_a_search_that_was_cut_short_is_the_best_so_far() -> None:
    def interrupted(values: Values) -> float:
        if values["batch"] == 1024:
            raise KeyboardInterrupt
        return float(values["batch"])

    trials: list[Trial] = []

    def measure(values: Values) -> Trial:
        trials.append(Trial(label="", values=values, tokens_per_s=interrupted(values)))
        return trials[-1]

    with pytest.raises(KeyboardInterrupt):
        search([BATCH], measure)
    best = fastest_of(trials)
    assert best is not None
    assert best.values["batch"] == 512


def batches(profile: Profile, **more: int) -> Setting:
    asked = {"sequences": 256, "per_question": 8, "rollouts": 4000} | more
    return next(item for item in settings_of(profile, **asked) if item.name == "sequences per engine")


@pytest.mark.parametrize(
    ("more", "values"),
    [
        ({}, (32, 64, 128, 256, 512, 1024, 2048)),
        ({"per_question": 100}, (128, 256, 512, 1024, 2048)),
        ({"rollouts": 300}, (32, 64, 128, 256, 512)),
        ({"rollouts": 8}, (32, 64, 128, 256)),
        ({"per_question": 300, "rollouts": 300}, (256, 512)),
    ],
)
def test_the_batches_hold_a_question_and_no_more_than_the_run_has(more: dict[str, int], values: tuple[int]) -> None:
    assert batches(load_profile("h200x1"), **more).values == values


def test_a_candidate_states_only_what_it_changes() -> None:
    profile = load_profile("h200x1")
    settings = settings_of(profile, sequences=1024, per_question=8, rollouts=4000)
    given = {item.name: item.given for item in settings}
    assert candidate(profile, settings, given) == profile
    assert label(settings, given) == "as given"
    more = given | {"sequences per engine": 2048}
    changed = candidate(profile, settings, more)
    assert (changed.engine.max_num_seqs, changed.question_batch_size) == (2048, AUTO)
    assert label(settings, more) == "sequences per engine: 2,048"


def test_a_stated_batch_stays_stated() -> None:
    profile = load_profile("cpu-demo")
    settings = settings_of(profile, sequences=128, per_question=8, rollouts=4000)
    values = {item.name: item.given for item in settings} | {"sequences per engine": 64}
    changed = candidate(profile, settings, values)
    assert (changed.question_batch_size, changed.engine.max_num_seqs) == (8, 64)


def test_every_candidate_of_every_setting_is_a_profile() -> None:
    for name in ("h100x8-replicas", "h100x8", "cpu-demo", "h200x1-strict"):
        profile = load_profile(name)
        settings = settings_of(profile, sequences=256, per_question=8, rollouts=4000)
        given = {item.name: item.given for item in settings}
        for item in settings:
            assert item.given in item.values
            for value in item.values:
                candidate(profile, settings, given | {item.name: value})


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([120.0, 119.5], ""),
        ([LEAST_SECONDS], ""),
        ([120.0, 0.14], "a candidate generated for 0.1 s"),
        ([None, 9.94], "a candidate generated for 9.9 s"),
        ([None], ""),
        ([], ""),
    ],
)
def test_what_is_measured_too_briefly_is_said(seconds: list[float | None], told: str) -> None:
    trials = [Trial(label="as given", values={}, seconds=value) for value in seconds]
    assert too_short(trials).startswith(told)
    assert bool(too_short(trials)) == bool(told)
