import polars as pl

from tasks.scoring.gsm8k_gold_suspects import is_gold_suspect, question_hash, suspect_flags
from tests.support.shared_data import gsm8k_rows


def test_the_flagged_rows_of_gsm8k_are_those_that_were_found_wrong() -> None:
    questions = [row["question"] for row in gsm8k_rows("train")]
    flagged = [index for index, question in enumerate(questions) if is_gold_suspect(question)]
    assert flagged == [167, 356, 1081, 2770, 3529, 4796, 7182, 7401, 7444]


def test_no_test_row_is_flagged() -> None:
    assert not any(is_gold_suspect(row["question"]) for row in gsm8k_rows("test"))


def test_the_question_hash_ignores_white_space() -> None:
    assert question_hash("Two  eggs?\n") == question_hash("Two eggs?") != question_hash("Two eggs")


def test_flags_accept_nulls_and_repeated_questions() -> None:
    flags = suspect_flags(pl.Series(["a", None, "a"], dtype=pl.String))
    assert flags.to_list() == [False, False, False]
