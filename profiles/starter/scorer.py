"""How an answer becomes a reward. Try it: harvest score --dry-run scorer.py:exact"""

import re
from typing import Any

SCORER_VERSION = "1"
"""Stored with every score. Change it when rewards change; without it, a hash of this file is stored."""

_ANSWER = re.compile(r"####\s*(-?[\d,]+(?:\.\d+)?)\s*$")


def exact(completion: str, ground_truth: str, finish_reason: str | None) -> dict[str, Any]:
    """Return reward 1 when the completion ends in "#### " and the ground truth, else 0.

    It is called by name with any of completion, ground_truth, finish_reason ("stop", "length" or None), question, arm,
    prompt, and the columns of your dataset: leave out or add what you need. It returns a number, or a mapping with
    reward and, if you like, extracted_answer (votes compare these) and further columns, which are stored.
    """
    found = _ANSWER.search(completion)
    answer = found[1].replace(",", "") if found else None
    is_right = answer == ground_truth and finish_reason != "length"
    return {"reward": float(is_right), "extracted_answer": answer, "characters": len(completion)}
