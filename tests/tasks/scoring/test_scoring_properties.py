import math
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scoring.gsm8k_answers import find_answers
from tasks.scoring.gsm8k_scorer import score_gsm8k
from tasks.scoring.score import Score
from tasks.scoring.score_shard import score_frame
from tests.support.answer_texts import PIECES, completions

GOLDS = ["18", "1,234", "-10", "5", "not a number"]
REASONS = ["stop", "length", None]


def vectorised(rows: list[tuple[str, str, str | None]]) -> list[Score]:
    texts, golds, reasons = zip(*rows, strict=True)
    scores = score_frame(
        pl.DataFrame(
            {"rollout_id": list(map(str, range(len(rows)))), "completion": texts, "ground_truth": golds},
        ).with_columns(pl.Series("finish_reason", reasons, dtype=pl.String))
    )
    return [
        Score(
            reward=math.nan if row["reward"] is None else row["reward"],
            extracted_answer=row["extracted_answer"],
            method=row["extraction_method"],
            correct_flexible=row["correct_flexible"],
        )
        for row in scores.iter_rows(named=True)
    ]


@settings(max_examples=300)
@given(st.lists(st.tuples(completions, st.sampled_from(GOLDS), st.sampled_from(REASONS)), min_size=1, max_size=30))
def test_scalar_and_vectorised_agree_on_random_text(rows: list[tuple[str, str, str | None]]) -> None:
    # repr makes NaN equal to itself
    assert [*map(repr, vectorised(rows))] == [repr(score_gsm8k(*row)) for row in rows]


def test_scalar_and_vectorised_agree_on_texts_that_end_in_a_marker() -> None:
    """These texts resemble real completions, so the vectorised path reads most of them."""
    rng = random.Random(0)
    values = [piece for piece in PIECES if not set(piece) & set("<#＃")] + ["18", "7", "$18", "1,234", "18 dollars"] * 8
    ends = ["", "", "\n", "\n\nDone.", "$.", "\n\\]", " ok", "\n18\n", "\r\n"]
    starts = ["", "work 5\n", "a * b = <<3*4=12>>12\n", "#### 5\n", "<think>\nfoo #### 3\n</think>\n"]

    def text() -> str:
        value = "".join(rng.choices(values, k=rng.randint(1, 3)))
        marked = rng.choice([f"#### {value}", f"#### {value}", f"so \\boxed{{{value}}}", value])
        return rng.choice(starts) + marked + rng.choice(ends)

    rows = [(text(), "18", rng.choice(REASONS)) for _ in range(20_000)]
    assert [*map(repr, vectorised(rows))] == [repr(score_gsm8k(*row)) for row in rows]


@settings(max_examples=300)
@given(st.text(), st.text(), st.one_of(st.none(), st.text(max_size=8)))
def test_any_strings_give_a_score(completion: str, ground_truth: str, finish_reason: str | None) -> None:
    score = score_gsm8k(completion, ground_truth, finish_reason)
    assert math.isnan(score.reward) == (score.method == "gold_unparseable")
    assert score.reward != 1 or score.extracted_answer is not None


MEGABYTE = 1_000_000
HOSTILE = {
    "digits": "|1",
    "digits after a marker": "#### |1",
    "groups": "#### 1|,000",
    "short groups": "#### |1,",
    "exponent": "#### 1e|9",
    "exponent tower": "\\boxed{|9^{",
    "open boxes": "|\\boxed{",
    "empty boxes": "|\\boxed{}",
    "braces in a box": "\\boxed{|{",
    "backslashes in a box": "\\boxed{|\\",
    "empty markers": "|####\n",
    "headings": "|#### a ",
    "number signs": "|#",
    "annotations": "|<<1",
    "think tags": "|<think>",
    "closing tags": "|</think>",
    "turns": "|<|im_start|>",
    "questions": "1|\nQuestion",
    "question indents": "1|\n \t>*_",
    "LaTeX text": "#### |\\text{",
    "equations": "#### |1=",
    "labels": "#### |answer ",
    "colons": "#### |a:",
    "brackets": "#### |(",
    "tags": "#### |<a",
    "units": "#### 1|/a",
    "powers of ten": "#### 1| x 10",
    "unit powers": "#### 1 |a^2",
    "words": "#### 18 |word ",
    "spaces": "#### 1|  ",
    "signs": "#### |-",
    "dots": "1|.",
    "commas": "1|,",
    "zero width": "|\u200b",
}


# the limit of every test is the bound: linear code takes about a second, and anything slower takes hours
@pytest.mark.parametrize("pattern", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_of_anything_is_scored_in_bounded_time(pattern: str) -> None:
    head, _, repeated = pattern.partition("|")
    text = head + repeated * (MEGABYTE // max(1, len(repeated)))
    score = score_gsm8k(text, "18")
    assert len(score.extracted_answer or "") < 1_000
    part = text[: MEGABYTE // 10]
    assert repr(vectorised([(part, "18", "stop")])[0]) == repr(score_gsm8k(part, "18"))


def test_deeply_nested_boxes() -> None:
    text = "\\boxed{" * 50_000 + "18" + "}" * 50_000
    assert score_gsm8k(text, "18").reward == vectorised([(text, "18", "stop")])[0].reward


def test_equal_texts_are_read_once_and_rows_keep_their_order() -> None:
    texts = ["#### 18", "\\boxed{5}", "x", "#### 18"] * 1_000
    columns = find_answers(pl.Series(texts), pl.Series(["stop"] * len(texts)))
    assert columns["extracted_answer"].to_list() == ["18", "5", None, "18"] * 1_000


@pytest.mark.parametrize(
    "text", ["so \\boxed{~.USD 5.}", "#### \\,007~ ", "\\boxed{.5 eggs}", "#### 7^2", "#### 18. Eggs"]
)
def test_scalar_and_vectorised_agree_on_forms_that_depend_on_the_integer(text: str) -> None:
    assert repr(vectorised([(text, "5", "stop")])[0]) == repr(score_gsm8k(text, "5"))


@pytest.mark.parametrize(
    "text",
    [
        "5</think>#### 18</think>7",
        "5</think>\\boxed{18}</think>",
        "<think>5</think><think>6</think>#### 18",
        "<think>5<think>6</think>#### 18",
        " <think>5</think>#### 18<think>",
        "5 <think>6</think>#### 18",
        "</think>#### 18",
        "<think>#### 18",
    ],
)
def test_scalar_and_vectorised_agree_on_repeated_think_tags(text: str) -> None:
    assert repr(vectorised([(text, "18", "stop")])[0]) == repr(score_gsm8k(text, "18"))
