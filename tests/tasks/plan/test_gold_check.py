"""Answers that the scorer cannot read are told before anything is generated."""

import re

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.plan.gold_check import MOST_CHECKED, check_golds
from tasks.records import QUESTION_SCHEMA


def questions(*golds: str) -> pl.DataFrame:
    return pl.DataFrame([(str(number), "?", gold) for number, gold in enumerate(golds)], QUESTION_SCHEMA, orient="row")


@pytest.mark.parametrize(
    ("golds", "scorer", "told"),
    [
        (("18", "1,000", "-3.5"), "gsm8k", None),
        (("one third", "C"), "my:scorer", None),
        (("1/2", "18", "1/2"), "gsm8k", "scorer gsm8k cannot read 2 of 3 answers, such as '1/2': .*math can read all"),
        (("1/2", "1", "one third", "\\frac{1}{2}"), "gsm8k", "3 of 4 .*'1/2', 'one third', .*math can read 2 of them"),
        (("one third", "18"), "gsm8k", "1 of 2 answers, such as 'one third': .* Check answer_column, or give a scorer"),
    ],
)
def test_unreadable_answers_are_counted(golds: tuple[str, ...], scorer: str, told: str | None) -> None:
    found = check_golds(questions(*golds), scorer)
    assert found == () if told is None else re.search(told, found[0])


@pytest.mark.parametrize(
    ("golds", "told"),
    [
        (("1/2", "\\frac{1}{3}"), r"none of the 2 answers, such as '1/2', .* --scorer math can read all of them"),
        (("1/2", "one third"), r"none of the 2 answers, such as '1/2', 'one third': .*math can read 1 of them"),
        (("nan", "one third"), r"none of the 2 answers.* Check answer_column"),
    ],
)
def test_a_run_without_any_reward_is_refused(golds: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_golds(questions(*golds), "gsm8k")


def test_of_many_questions_a_part_is_checked() -> None:
    many = pl.concat([questions("C", "one third")] * MOST_CHECKED)
    with pytest.raises(ConfigError, match=f"none of the {MOST_CHECKED:,} answers"):
        check_golds(many, "gsm8k")
