"""A judgement at the top of report.html."""

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from tasks.plain_text import one_line

Tone = Literal["good", "careful", "bad", "unknown"]

_ITEM = Markup('<li class="{tone}"><span>{name}</span><b>{word}</b>{reason}</li>')


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``name`` is what is judged. ``reason`` is shown on one line of at most 500 characters."""

    name: str
    word: str
    tone: Tone
    reason: str

    def __html__(self) -> str:
        """Its item in the page's list."""
        return _ITEM.format(
            tone=self.tone, name=self.name, word=one_line(self.word, 120), reason=one_line(self.reason, 500)
        )
