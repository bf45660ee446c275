"""Scorers as a user would write them, for the tests of ``package.module:function``."""

from tasks.scoring.score import Score

SCORER_VERSION = "7"
CONSTANT = 1


def last_word(completion: str, ground_truth: str, finish_reason: str | None) -> Score:
    word = completion.split()[-1] if completion.split() else None
    return Score(reward=float(word == ground_truth), extracted_answer=word, method="last_word", correct_flexible=False)


def length(completion: str, ground_truth: str, finish_reason: str | None) -> float:
    return len(completion) / 10


def no_parameters() -> float:
    return 0.0


def failing(completion: str, ground_truth: str, finish_reason: str | None) -> float:
    raise KeyError("missing")


def text(completion: str, ground_truth: str, finish_reason: str | None) -> str:
    return "right"


def infinite(completion: str, ground_truth: str, finish_reason: str | None) -> Score:
    return Score(reward=float("inf"), extracted_answer=None, method="infinite", correct_flexible=False)
