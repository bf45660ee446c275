"""Checks before a run that its scorer can read the dataset's answers: a rollout is scored by its question's answer."""

from collections import Counter

import polars as pl

from tasks.errors import ConfigError
from tasks.plain_text import shortened

MOST_CHECKED = 100_000
"""Of more questions, as many are checked, evenly spread; it takes seconds."""
_EXAMPLES = 3


def check_golds(questions: pl.DataFrame, scorer: str) -> tuple[str, ...]:
    """Return a warning about answers that ``scorer`` cannot read; none when it reads all, or is the user's own.

    ``questions`` is in QUESTION_SCHEMA. Raises ConfigError when the scorer can read none of them.
    """
    # the scorers' patterns take a tenth of a second, which a process that only reads plans need not spend
    from tasks.scoring.unreadable_golds import unreadable_golds

    checked = questions.gather_every(-(-questions.height // MOST_CHECKED))
    unreadable = unreadable_golds(checked["ground_truth"].to_list(), scorer)
    if not unreadable:
        return ()
    texts = list(dict.fromkeys(item.gold for item in unreadable))[:_EXAMPLES]
    examples = ", ".join(repr(shortened(text, 60)) for text in texts)
    remedy = "Check answer_column, or give a scorer of your own"
    if others := Counter(name for item in unreadable for name in item.readable_by).most_common(1):
        (other, count) = others[0]
        remedy = f"--scorer {other} can read {'all' if count == len(unreadable) else f'{count:,}'} of them"
    if len(unreadable) == checked.height:
        raise ConfigError(
            f"scorer {scorer} can read none of the {checked.height:,} answers, such as {examples}: no rollout would "
            f"have a reward. {remedy}"
        )
    return (
        f"scorer {scorer} cannot read {len(unreadable):,} of {checked.height:,} answers, such as {examples}: rollouts "
        f"of these questions will have no reward. {remedy}",
    )
