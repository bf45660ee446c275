"""Writes a profile as the text of a TOML file that ``load_profile`` reads again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from profiles.schema import Profile

_TABLES = 2
"""Tables within tables that have headings: [engine.vllm] is the deepest."""


def profile_text(profile: Profile, comments: Sequence[str] = ()) -> str:
    """Return ``profile`` as TOML, with every setting that has a value, below ``comments`` of one line each."""
    lines = [f"# {comment_line(comment)}" for comment in comments]
    lines += _table("", profile.model_dump(mode="json", exclude_none=True), _TABLES)
    return "\n".join(lines) + "\n"


def _table(name: str, values: Mapping[str, Any], deeper: int) -> list[str]:
    """Return the lines of a table's own values, then those of the tables in it; those that are too deep are values."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict) and deeper}
    lines = [_line(key, value) for key, value in values.items() if key not in tables]
    if name and lines:
        lines = ["", f"[{name}]", *lines]
    for key, table in tables.items():
        lines += _table(f"{name}.{key}".lstrip("."), table, deeper - 1)
    return lines


def comment_line(text: str) -> str:
    """Return ``text`` as one line that can stand in a comment."""
    # TOML allows no control character in a comment, and UTF-8 no surrogate; both come with messages and paths of others
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _line(key: str, value: Any) -> str:
    return f"{key} = {toml_value(value)}"


def toml_value(value: Any) -> str:
    """Return a value that JSON can hold as TOML."""
    if isinstance(value, dict):
        pairs = (f"{_string(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    # JSON's numbers and flags are TOML's too
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(text: str) -> str:
    # so are its strings, but for a character that TOML wants escaped
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
