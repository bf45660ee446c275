"""Shows on a terminal what a scorer gave for the texts of a trial."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.plain_text import one_line, plain_number
from tasks.results.scorer_trial import ScorerTrial


def render_trial(trial: ScorerTrial) -> RenderableType:
    """Return a row per text, and whether any form of the ground truths is right."""
    table = Table(title=f"{trial.scorer} {trial.version}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("question", "text", "reward", "answer", "how"):
        table.add_column(name, justify="right" if name == "reward" else "left")
    extra = list(trial.texts[0].extra)
    for name in extra:
        table.add_column(one_line(name, 60))
    for text in trial.texts:
        table.add_row(
            one_line(text.example_id, 60),
            text.kind,
            "-" if text.reward is None else f"{text.reward:g}",
            "-" if text.extracted_answer is None else one_line(text.extracted_answer, 60),
            one_line(text.method, 200),
            *("-" if text.extra[name] is None else one_line(str(plain_number(text.extra[name])), 60) for name in extra),
        )
    best = max((text.reward for text in trial.texts if text.is_gold and text.reward is not None), default=None)
    others = max((text.reward for text in trial.texts if not text.is_gold and text.reward is not None), default=None)
    told = f"best reward of a ground truth: {_number(best)}; of another text: {_number(others)}"
    if best is None or (others is not None and others >= best):
        told += ". The scorer does not tell ground truths from other texts: look at its rows above"
    return Group(table, Text(told))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
