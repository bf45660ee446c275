"""The ``math`` scorer: Math-Verify compares the marked answer with the ground truth, for answers that are expressions.

https://github.com/huggingface/Math-Verify. The marked answer is the one that the strict GSM8K scorer reads (last
``####`` line or ``\\boxed{}``), cleaned as that scorer cleans it. ``plain_answers`` decides numbers,
words and choices and finds what is ambiguous; Math-Verify decides the rest. It accepts both 18% and 1800% for 18%.

Equal answers to a question have the same ``extracted_answer``, so that votes count them together: a right answer has
the text of the ground truth, a wrong one the text of ``shared_text``.
"""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import polars as pl

from tasks.errors import ConfigError
from tasks.extras import add_extra
from tasks.scoring.answer_marker import MarkedValue, marked_values
from tasks.scoring.answer_text import answer_text
from tasks.scoring.answer_value import read_value
from tasks.scoring.gsm8k_scorer import gold_number
from tasks.scoring.math_answer import is_comparable, math_answer, math_gold
from tasks.scoring.math_equality import Outcome
from tasks.scoring.math_workers import LIMIT_S, AnswerPair, verify_all
from tasks.scoring.number_text import last_number
from tasks.scoring.opening_column import whole_completions
from tasks.scoring.plain_answers import decided, plain_gold, plain_number
from tasks.scoring.score import CUT_FINISH_REASONS, Score, scorer_output

_EXPRESSION = re.compile(r"[\\^=+*/(]")


class _Marked(NamedTuple):
    raw: str
    text: str


@dataclass(frozen=True, kw_only=True)
class _Answer:
    marked: _Marked | None = None
    method: str
    last_number: str | None


class MathScorer:
    """Rewards 1 where Math-Verify finds the marked answer equal to the ground truth; method ``math``.

    Other methods: ``none``, ``ambiguous`` and ``truncated`` as for ``gsm8k``, ``timeout`` when the comparison exceeds
    its limit (reward 0), ``gold_unparseable`` (reward null). Raises ConfigError when Math-Verify is not installed.
    """

    name = "math"

    def __init__(self, *, limit_s: float = LIMIT_S, workers: int | None = None) -> None:
        self._limit_s = limit_s
        self._workers = workers
        _ = self.version

    @cached_property
    def version(self) -> str:
        """The version of this scorer and that of Math-Verify, joined by a hyphen."""
        try:
            return f"4-{importlib.metadata.version('math-verify')}"
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                f"scorer 'math' needs the package math-verify, which is not installed. Install it: {add_extra('math')}"
            ) from None

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        answers = [
            _marked_answer(text, reason)
            for text, reason in zip(whole_completions(rows), rows["finish_reason"], strict=True)
        ]
        truths = rows["ground_truth"]
        known = {truth: math_gold(truth) for truth in truths.unique()}
        golds = [known[truth] for truth in truths]
        decisions = [
            None if answer.marked is None or gold is None else decided(*answer.marked, plain_gold(truth, gold))
            for answer, gold, truth in zip(answers, golds, truths, strict=True)
        ]
        unsettled = dict.fromkeys(
            (answer.marked.text, gold)
            for answer, gold, decision in zip(answers, golds, decisions, strict=True)
            if answer.marked is not None and gold is not None and decision is None
        )
        verified = verify_all(
            [AnswerPair(candidate=text, gold=gold) for text, gold in unsettled],
            workers=self._workers,
            limit_s=self._limit_s,
        )
        outcomes = dict(zip(unsettled, verified.outcomes, strict=True))
        scores = []
        for answer, gold, decision in zip(answers, golds, decisions, strict=True):
            outcome: Outcome | None = "bad_gold"
            if decision == "ambiguous":
                answer, outcome = _Answer(method="ambiguous", last_number=answer.last_number), None
            elif gold is not None:
                outcome = decision or (None if answer.marked is None else outcomes[answer.marked.text, gold])
            scores.append(_score(answer, gold, outcome, verified.texts))
        return scorer_output(scores)


def _marked_answer(completion: str, finish_reason: str | None) -> _Answer:
    cleaned = answer_text(completion)
    is_cut = finish_reason in CUT_FINISH_REASONS and not cleaned.is_ended
    number = last_number(cleaned.text)
    filled = [marked for marked in marked_values(cleaned.text) if math_answer(marked.raw)]
    # words can be the answer here, so a heading is skipped only when another marker stands before it
    marked = next((marked for marked in filled if not _is_heading(marked)), filled[0] if filled else None)
    if marked is None or (is_cut and marked.is_open):
        return _Answer(method="truncated" if is_cut else "none", last_number=number)
    if marked.is_unclosed_box or marked.is_partial or not is_comparable(marked.raw):
        return _Answer(method="ambiguous", last_number=number)
    return _Answer(marked=_Marked(marked.raw, math_answer(marked.raw)), method="math", last_number=number)


def _is_heading(marked: MarkedValue) -> bool:
    """Whether a ``####`` line holds words, with or without a number before them, and no expression."""
    answer = math_answer(marked.raw)
    is_words = len(answer) > 1 and _EXPRESSION.search(answer) is None
    return marked.kind == "hash" and is_words and read_value(marked.raw, "hash").kind == "prose"


def _score(answer: _Answer, gold: str | None, outcome: Outcome | None, texts: Mapping[str, str]) -> Score:
    methods = {"timeout": "timeout", "bad_gold": "gold_unparseable"}
    text = answer.marked and answer.marked.text
    if outcome == "right":
        text = gold
    elif outcome == "wrong" and answer.marked is not None:
        shared = texts.get(answer.marked.text) or plain_number(answer.marked.raw) or text
        text = text if shared == gold else shared
    return Score(
        reward=float("nan") if outcome == "bad_gold" else float(outcome == "right"),
        extracted_answer=text,
        method=methods.get(outcome or "", answer.method),
        correct_flexible=outcome == "right"
        or (gold is not None and answer.last_number is not None and answer.last_number == gold_number(gold)),
    )
