"""The ``math`` scorer: Math-Verify compares the marked answer with the ground truth, for answers that are expressions.

https://github.com/huggingface/Math-Verify. The marked answer is the one that the strict GSM8K scorer reads (last
``####`` line or ``\\boxed{}``), cleaned as that scorer cleans it. Math-Verify decides what is equal, unless both are
integers or have the same text; it accepts both 18% and 1800% for 18%.

Equal answers to a question have the same ``extracted_answer``, so that votes count them together: a right answer has
the text of the ground truth, a wrong one the text of ``shared_text``.
"""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from tasks.errors import ConfigError
from tasks.scoring.answer_marker import MarkedValue, marked_values
from tasks.scoring.answer_text import answer_text
from tasks.scoring.answer_value import read_value
from tasks.scoring.gsm8k_scorer import gold_number
from tasks.scoring.math_answer import is_comparable, math_answer, math_gold
from tasks.scoring.math_equality import Outcome
from tasks.scoring.math_workers import LIMIT_S, AnswerPair, verify_all
from tasks.scoring.number_text import last_number
from tasks.scoring.opening_column import whole_completions
from tasks.scoring.score import CUT_FINISH_REASONS, Score, scorer_output

_EXPRESSION = re.compile(r"[\\^=+*/(]")


@dataclass(frozen=True, kw_only=True)
class _MarkedAnswer:
    candidate: str | None
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
            return f"3-{importlib.metadata.version('math-verify')}"
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                "scorer 'math' needs the package math-verify, which is not installed. Install the extra: "
                "pip install 'rollout-harvest[math]'"
            ) from None

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        answers = [
            _marked_answer(text, reason)
            for text, reason in zip(whole_completions(rows), rows["finish_reason"], strict=True)
        ]
        truths = rows["ground_truth"]
        known = {truth: math_gold(truth) for truth in truths.unique()}
        golds = [known[truth] for truth in truths]
        pairs = [(answer.candidate, gold) for answer, gold in zip(answers, golds, strict=True)]
        unsettled = [*dict.fromkeys((text, gold) for text, gold in pairs if text and gold and not _settled(text, gold))]
        verified = verify_all(
            [AnswerPair(candidate=text, gold=gold) for text, gold in unsettled],
            workers=self._workers,
            limit_s=self._limit_s,
        )
        outcomes = dict(zip(unsettled, verified.outcomes, strict=True))
        scores = []
        for answer, (text, gold) in zip(answers, pairs, strict=True):
            outcome: Outcome | None = "bad_gold"
            if gold is not None:
                outcome = None if text is None else _settled(text, gold) or outcomes[text, gold]
            scores.append(_score(answer, gold, outcome, verified.texts))
        return scorer_output(scores)


def _settled(candidate: str, gold: str) -> Outcome | None:
    """The outcome where it takes no Math-Verify: equal texts, and integers."""
    if candidate == gold:
        return "right"
    are_integers = all(text.removeprefix("-").isdecimal() and text.isascii() for text in (candidate, gold))
    return "wrong" if are_integers else None


def _marked_answer(completion: str, finish_reason: str | None) -> _MarkedAnswer:
    cleaned = answer_text(completion)
    is_cut = finish_reason in CUT_FINISH_REASONS and not cleaned.is_ended
    number = last_number(cleaned.text)
    filled = [marked for marked in marked_values(cleaned.text) if math_answer(marked.raw)]
    # words can be the answer here, so a heading is skipped only when another marker stands before it
    marked = next((marked for marked in filled if not _is_heading(marked)), filled[0] if filled else None)
    if marked is None or (is_cut and marked.is_open):
        return _MarkedAnswer(candidate=None, method="truncated" if is_cut else "none", last_number=number)
    if marked.is_unclosed_box or marked.is_partial or not is_comparable(marked.raw):
        return _MarkedAnswer(candidate=None, method="ambiguous", last_number=number)
    return _MarkedAnswer(candidate=math_answer(marked.raw), method="math", last_number=number)


def _is_heading(marked: MarkedValue) -> bool:
    """Whether a ``####`` line holds words, with or without a number before them, and no expression."""
    answer = math_answer(marked.raw)
    is_words = len(answer) > 1 and _EXPRESSION.search(answer) is None
    return marked.kind == "hash" and is_words and read_value(marked.raw, "hash").kind == "prose"


def _score(answer: _MarkedAnswer, gold: str | None, outcome: Outcome | None, texts: Mapping[str, str]) -> Score:
    methods = {"timeout": "timeout", "bad_gold": "gold_unparseable"}
    text = answer.candidate
    if outcome == "right":
        text = gold
    elif outcome == "wrong" and text is not None and texts.get(text) != gold:
        text = texts.get(text, text)
    return Score(
        reward=float("nan") if outcome == "bad_gold" else float(outcome == "right"),
        extracted_answer=text,
        method=methods.get(outcome or "", answer.method),
        correct_flexible=outcome == "right"
        or (gold is not None and answer.last_number is not None and answer.last_number == gold_number(gold)),
    )
