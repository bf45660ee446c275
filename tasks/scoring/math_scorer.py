"""The ``math`` scorer: Math-Verify compares the marked answer with the ground truth, for answers that are expressions.

https://github.com/huggingface/Math-Verify. The marked answer is the one that the strict GSM8K scorer reads (last
``####`` line or ``\\boxed{}``). Math-Verify decides what is equal; it accepts both 18% and 1800% for 18%.
"""

import importlib.metadata
import re
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from tasks.errors import ConfigError
from tasks.scoring.answer_marker import MarkedValue, marked_values
from tasks.scoring.answer_text import answer_text
from tasks.scoring.answer_value import read_value
from tasks.scoring.gsm8k_scorer import gold_number
from tasks.scoring.math_workers import LIMIT_S, AnswerPair, Outcome, verify_all
from tasks.scoring.number_text import last_number
from tasks.scoring.score import CUT_FINISH_REASONS, Score, scorer_output

MAX_CANDIDATE_CHARS = 1_000
"""Longest answer that is compared, in characters."""

_LABEL = re.compile(r"(?:the )?(?:final )?answer(?: is(?![a-z])| ?:) *", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
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
            return f"2-{importlib.metadata.version('math-verify')}"
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                "scorer 'math' needs the package math-verify, which is not installed. Install the extra: "
                "pip install 'rollout-harvest[math]'"
            ) from None

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        answers = [
            _marked_answer(text, reason) for text, reason in rows.select("completion", "finish_reason").iter_rows()
        ]
        golds = rows["ground_truth"].to_list()
        outcomes = self._verify([(answer.candidate, gold) for answer, gold in zip(answers, golds, strict=True)])
        return scorer_output([_score(*row) for row in zip(answers, golds, outcomes, strict=True)])

    def _verify(self, pairs: list[tuple[str | None, str]]) -> list[Outcome | None]:
        """One outcome per pair, None where there is no candidate; equal pairs are compared once."""
        distinct = {pair: AnswerPair(candidate=pair[0], gold=pair[1]) for pair in pairs if pair[0] is not None}
        outcomes = verify_all(list(distinct.values()), workers=self._workers, limit_s=self._limit_s)
        known = dict(zip(distinct, outcomes, strict=True))
        return [known.get(pair) for pair in pairs]


def _marked_answer(completion: str, finish_reason: str | None) -> _MarkedAnswer:
    cleaned = answer_text(completion)
    is_cut = finish_reason in CUT_FINISH_REASONS and not cleaned.is_ended
    filled = [marked for marked in marked_values(cleaned.text) if _value(marked)]
    # words can be the answer here, so a heading is skipped only when another marker stands before it
    marked = next((marked for marked in filled if not _is_heading(marked)), filled[0] if filled else None)
    if marked is None or (is_cut and marked.is_open):
        return _MarkedAnswer(
            candidate=None, method="truncated" if is_cut else "none", last_number=last_number(cleaned.text)
        )
    is_unusable = marked.is_unclosed_box or marked.is_partial or len(marked.raw) > MAX_CANDIDATE_CHARS
    if is_unusable or not _is_balanced(marked.raw):
        return _MarkedAnswer(candidate=None, method="ambiguous", last_number=last_number(cleaned.text))
    return _MarkedAnswer(candidate=_value(marked), method="math", last_number=last_number(cleaned.text))


def _value(marked: MarkedValue) -> str:
    value = marked.raw.strip()
    label = _LABEL.match(value)
    return value[label.end() :] if label else value


def _is_heading(marked: MarkedValue) -> bool:
    """Whether a ``####`` line holds words, with or without a number before them, and no expression."""
    is_words = len(marked.raw.strip()) > 1 and _EXPRESSION.search(marked.raw) is None
    return marked.kind == "hash" and is_words and read_value(marked.raw, "hash").kind == "prose"


def _is_balanced(text: str) -> bool:
    depth = 0
    for brace in _BRACE.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _score(answer: _MarkedAnswer, gold: str, outcome: Outcome | None) -> Score:
    methods = {"timeout": "timeout", "bad_gold": "gold_unparseable"}
    return Score(
        reward=float("nan") if outcome == "bad_gold" else float(outcome == "right"),
        extracted_answer=answer.candidate,
        method=methods.get(outcome or "", answer.method),
        correct_flexible=outcome == "right"
        or (answer.last_number is not None and answer.last_number == gold_number(gold)),
    )
