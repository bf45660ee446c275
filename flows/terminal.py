"""All lines and all JSON that a command prints; flows.console prints its tables.

Much of it is text of others: of models, of datasets, and of the files of their runs. What a terminal would act on is
made visible here.
"""

import io
import json
import logging
import math
import sys
from typing import Any, TextIO

from tasks.plain_text import one_line, shortened, visible

_LONGEST_LINE = 8_000
"""In characters: a message may quote a file."""
_LONGEST_WORD = 400


class _VisibleFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        return one_line(super().formatMessage(record), _LONGEST_LINE)

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def print_text(text: str, stream: TextIO | None = None) -> None:
    """Print ``text``, of one line or more, to ``stream`` or to standard output."""
    (stream or sys.stdout).write(f"{visible(text)}\n")


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print ``text`` on one line to ``stream`` or to standard output."""
    print_text(one_line(text, _LONGEST_LINE), stream)


def print_error(text: str) -> None:
    """Print ``text`` on one line to standard error. A very long word would hide what is said about it."""
    print_line(" ".join(shortened(word, _LONGEST_WORD) for word in text.split()), sys.stderr)


def say(text: str) -> None:
    """Print ``text`` on one line to standard error."""
    print_line(text, sys.stderr)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print ``value`` as JSON in ASCII. A number that JSON lacks (NaN, Infinity) becomes null."""
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent)
    # the one control character that JSON in ASCII leaves as it is
    print_text(text.replace("\x7f", "\\u007f"))


def prepare_output() -> None:
    """Let log records that Python prints to standard error pass ``visible``, and let no character stop the output."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_VisibleFormatter())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may know less than Unicode


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value
