"""One line of the status list at the top of report.html, such as "Health: good"."""

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from tasks.plain_text import one_line

Tone = Literal["good", "careful", "bad", "unknown"]

_ITEM = Markup('<li class="{tone}"><span>{name}</span><b>{word}</b>{reason}</li>')


@dataclass(frozen=True, kw_only=True)
class StatusItem:
    """What the page says about ``name``: a short ``word``, and its ``reason`` on one line of at most 500 characters."""

    name: str
    word: str
    tone: Tone
    reason: str

    def __html__(self) -> str:
        """Return the item of the page's list."""
        return _ITEM.format(
            tone=self.tone, name=self.name, word=one_line(self.word, 120), reason=one_line(self.reason, 500)
        )
