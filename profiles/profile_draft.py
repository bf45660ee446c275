"""Writes a profile as a TOML file to edit: every key with its meaning, unit, bounds and default, set or not.

All of that is read from the settings themselves, so that a new key is in the next draft.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from profiles.profile_text import comment_line, toml_value
from profiles.schema import Profile

_WIDTH = 118
_HOW_TO_READ = (
    "Each key has its meaning above it, and what it may be. A line such as #replicas = 1 has the default: to change "
    "it, take the # away. What the meaning calls None is a key that is left out. harvest profiles FILE shows all "
    "settings of this file as they are read.",
)


def profile_draft(profile: Profile, comments: Sequence[str] = ()) -> str:
    """Return ``profile`` as commented TOML that ``load_profile`` reads again, below ``comments`` of one line each."""
    schema = Profile.model_json_schema()
    head = [line for text in (*comments, *_HOW_TO_READ) for line in _prose(comment_line(text))]
    lines = [*head, *_table("", schema, schema["$defs"], profile.model_dump(mode="json"))]
    return "\n".join(lines) + "\n"


def _table(name: str, schema: Mapping[str, Any], kinds: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table's own keys, then those of the tables in it."""
    tables = {key: field for key, field in schema["properties"].items() if "$ref" in field or _is_open_table(field)}
    for key, field in schema["properties"].items():
        if key not in tables:
            yield from _key(key, field, values[key])
    for key, field in tables.items():
        path = f"{name}.{key}".lstrip(".")
        yield from ("", *_prose(field["description"]), f"[{path}]")
        if _is_open_table(field):
            yield from (f"{inner} = {toml_value(value)}" for inner, value in values[key].items())
        else:
            yield from _table(path, kinds[field["$ref"].rpartition("/")[2]], kinds, values[key])


def _key(name: str, field: Mapping[str, Any], value: Any) -> Iterator[str]:
    if "default" not in field:
        default = "must be given"
    else:
        default = "left out by default" if field["default"] is None else f"default: {toml_value(field['default'])}"
    yield from ("", *_prose(field["description"]), *_prose(f"{_allowed(field)}; {default}"))
    if "default" not in field or value != field["default"]:
        yield f"{name} = {toml_value(value)}"
    else:
        yield f"#{name} =" if value is None else f"#{name} = {toml_value(value)}"


def _allowed(field: Mapping[str, Any]) -> str:
    """Return in words which values a key takes."""
    if "anyOf" in field:
        return " or ".join(_allowed(kind) for kind in field["anyOf"] if kind.get("type") != "null")
    if "enum" in field or "const" in field:
        return " or ".join(map(toml_value, field.get("enum", [field.get("const")])))
    match field["type"]:
        case "boolean":
            return "true or false"
        case "array" if "prefixItems" in field:
            return f"a list of {len(field['prefixItems'])}, each {_allowed(field['prefixItems'][0])}"
        case "array":
            return f"a list, each {_allowed(field['items'])}"
        case "string":
            return f"a text of the form {field['pattern']}" if "pattern" in field else "a text"
        case kind:
            return f"{'a whole number' if kind == 'integer' else 'a number'}{_bounds(field)}"


def _bounds(field: Mapping[str, Any]) -> str:
    told = {"minimum": " from", "exclusiveMinimum": " above", "maximum": " to" if "minimum" in field else ", at most"}
    return "".join(f"{word} {toml_value(field[name])}" for name, word in told.items() if name in field)


def _is_open_table(field: Mapping[str, Any]) -> bool:
    return field.get("type") == "object"


def _prose(text: str) -> list[str]:
    plain = " ".join(text.replace("``", "`").split())
    return [f"# {line}" for line in textwrap.wrap(plain, _WIDTH, break_long_words=False, break_on_hyphens=False)]
