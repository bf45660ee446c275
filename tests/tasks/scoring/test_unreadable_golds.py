"""Ground truths that a scorer cannot read are found, and with them the scorer that can."""

import polars as pl
import pytest

from tasks.scoring.score_shard import score_frame
from tasks.scoring.scorers import load_scorer
from tasks.scoring.unreadable_golds import UnreadableGold, unreadable_golds

READABLE: dict[str, set[str]] = {
    "18": {"gsm8k", "math"},
    "1,000": {"gsm8k", "math"},
    "$18": {"gsm8k", "math"},
    "18 dollars": {"gsm8k", "math"},
    "9*2=18\n#### 18": {"gsm8k", "math"},
    "1/2": {"math"},
    "\\frac{1}{2}": {"math"},
    "C": {"math"},
    "A": {"math"},
    "(1, 2)": {"math"},
    "x^2+1": {"math"},
    "Paris": {"math"},
    "one third": set(),
    "eighteen": set(),
    "twenty-one": set(),
    "": set(),
    " ": set(),
    **{
        gold: set[str]()
        for gold in ("nan", "NaN", "null", "None", "Infinity", "-inf", "inf", "true", "False", "\u200b")
    },
    "1 1/2": set(),
    "18 [1]": set(),
    "1000000!": set(),
    "\\infty": {"math"},
    "\\frac{1}{2": set(),
    "(10)": set(),
}


@pytest.mark.parametrize("scorer", ["gsm8k", "math"])
@pytest.mark.parametrize("gold", READABLE)
def test_each_gold_is_read_or_named_with_the_scorer_that_reads_it(gold: str, scorer: str) -> None:
    found = unreadable_golds(["7", gold], scorer)
    others = tuple(name for name in ("gsm8k", "math") if name in READABLE[gold])
    assert found == ([] if scorer in READABLE[gold] else [UnreadableGold(index=1, gold=gold, readable_by=others)])


def test_what_is_found_has_no_reward() -> None:
    golds = list(READABLE)
    rows = pl.DataFrame(
        {"rollout_id": golds, "completion": "#### 18", "ground_truth": golds, "finish_reason": "stop"},
    )
    is_null = score_frame(rows)["reward"].is_null().to_list()
    assert is_null == [index in {found.index for found in unreadable_golds(golds)} for index in range(len(golds))]


@pytest.mark.slow
def test_what_is_found_for_math_has_no_reward() -> None:
    golds = list(READABLE)
    rows = pl.DataFrame({"completion": "\\boxed{18}", "ground_truth": golds, "finish_reason": "stop"})
    is_null = load_scorer("math").score_columns(rows)["reward"].is_null().to_list()
    assert is_null == [
        index in {found.index for found in unreadable_golds(golds, "math")} for index in range(len(golds))
    ]


def test_repeated_golds_are_each_named_and_a_scorer_of_the_user_reads_all() -> None:
    assert [found.index for found in unreadable_golds(["C", "18", "C"])] == [0, 2]
    assert unreadable_golds(["C", ""], "my_pkg.scores:exact") == []
    assert unreadable_golds([]) == []
