"""Writes a profile as the text of a TOML file that ``load_profile`` reads again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from profiles.schema import Profile


def profile_text(profile: Profile, comments: Sequence[str] = ()) -> str:
    """Return ``profile`` as TOML, with every setting that has a value, below ``comments`` of one line each."""
    lines = [f"# {_comment(comment)}" for comment in comments]
    tables: dict[str, Mapping[str, Any]] = {}
    for name, value in profile.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            tables[name] = value
        else:
            lines.append(_line(name, value))
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *(_line(key, value) for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    # TOML allows no control character in a comment, and UTF-8 no surrogate; both come with messages and paths of others
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _line(key: str, value: Any) -> str:
    # JSON's strings, numbers, flags and lists are TOML's too, but for a character that TOML wants escaped
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
