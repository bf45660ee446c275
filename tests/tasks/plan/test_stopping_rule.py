import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ConfigError
from tasks.plan.stopping_rule import StoppingRule, wave_ends
from tasks.results.reward_interval import wilson_interval


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("correct:4", "correct:4"),
        ("mixed", "mixed"),
        ("mixed:1", "mixed"),
        ("mixed:02", "mixed:2"),
        ("width:.30", "width:0.3"),
        (" mixed , correct:2", "mixed,correct:2"),
        ("width:0.25,correct:100000", "width:0.25,correct:100000"),
    ],
)
def test_a_rule_is_read_and_has_one_text(text: str, canonical: str) -> None:
    rule = StoppingRule.parse(text)
    assert str(rule) == canonical
    assert StoppingRule.parse(canonical) == rule


BAD = (
    *("", "correct", "correct:", "correct:0", "correct:-1", "correct:1.5", "correct:100001", "correct:²", "mixed:"),
    *("mixed:0", "mixed:x", "width", "width:0", "width:1", "width:nan", "width:inf", "right:2", "mixed,", "mixed;2"),
    "correct:" + "9" * 5000,
)


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:20]))
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="; give correct:K "):
        StoppingRule.parse(text)


def test_a_condition_is_given_once() -> None:
    with pytest.raises(ConfigError, match="has mixed twice"):
        StoppingRule.parse("mixed,correct:2,mixed:3")


@pytest.mark.parametrize(
    ("text", "right", "wrong", "reason"),
    [
        ("correct:2", 1, 9, None),
        ("correct:2", 2, 0, "correct:2"),
        ("mixed", 3, 0, None),
        ("mixed", 0, 3, None),
        ("mixed:1", 1, 1, "mixed"),
        ("mixed:2", 9, 1, None),
        ("mixed:2", 2, 2, "mixed:2"),
        ("width:0.9", 0, 0, None),
        ("correct:2,mixed", 2, 1, "correct:2"),
        ("mixed,correct:2", 2, 1, "mixed"),
        ("mixed,correct:2", 2, 0, "correct:2"),
    ],
)
def test_the_first_condition_that_holds_is_the_reason(text: str, right: int, wrong: int, reason: str | None) -> None:
    assert StoppingRule.parse(text).holds(right, wrong) == reason


@given(st.integers(0, 64), st.integers(0, 64), st.floats(0.01, 0.99))
def test_width_is_that_of_wilsons_interval(right: int, wrong: int, width: float) -> None:
    holds = StoppingRule.parse(f"width:{width!r}").holds(right, wrong) is not None
    if not right + wrong:
        assert not holds
    else:
        interval = wilson_interval(right, right + wrong)
        assert holds == (interval.high - interval.low < width)


@given(st.sampled_from(["correct:5", "mixed:3", "width:0.3", "width:0.5,mixed:2,correct:9"]), st.integers(1, 40))
def test_out_of_reach_is_what_no_group_meets(text: str, most: int) -> None:
    rule = StoppingRule.parse(text)
    met = [
        str(condition)
        for condition in rule.conditions
        if any(condition.holds(right, size - right) for size in range(1, most + 1) for right in range(size + 1))
    ]
    assert rule.out_of_reach(most) == tuple(str(item) for item in rule.conditions if str(item) not in met)


@pytest.mark.parametrize(
    ("first", "size", "most", "ends"),
    [
        (4, 4, 32, (4, 8, 12, 16, 20, 24, 28, 32)),
        (4, 3, 8, (4, 7, 8)),
        (1, 100, 8, (1, 8)),
        (8, 4, 8, (8,)),
    ],
)
def test_waves_end_at_the_maximum(first: int, size: int, most: int, ends: tuple[int, ...]) -> None:
    assert wave_ends(first, size, most) == ends
