"""The frame of every page: its templates, its style and script, and the policy that lets nothing else run.

Text of models, datasets and configurations is escaped where it enters a page. The content policy names the one style
and the one script by their hashes, and forbids requests: nothing that a model wrote can run. Control characters are
made visible on the whole page.
"""

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from tasks.plain_text import one_line, shortened, visible
from tasks.results.page_cards import in_words

Links = Sequence[tuple[str, str]]
"""Addresses and words of the pages that a served page leads to, the first of them to all runs."""

_EXAMPLE_CHARACTERS = 800


def page_template(name: str, *, served: bool = False) -> Template:
    """Return one of the templates, which escape every text that enters them.

    A ``served`` page may ask its own server again.
    """
    return _environment().get_template(
        name,
        globals={"style": _asset("style.css"), "script": _asset("page.js"), "policy": content_policy(served=served)},
    )


@functools.cache
def content_policy(*, served: bool) -> str:
    """Return the Content-Security-Policy of a page, of a file or ``served``."""
    own = "form-action 'self'; connect-src 'self'" if served else "form-action 'none'"
    return (
        f"default-src 'none'; base-uri 'none'; {own}; img-src data:; "
        f"style-src '{_digest('style.css')}'; script-src '{_digest('page.js')}'"
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tasks.results", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, nats=_nats, percent=_percent, line=_line, shown=_shown, seconds=_seconds, points=_points
    )
    return environment


@functools.cache
def _asset(name: str) -> Markup:
    return Markup(files("tasks.results").joinpath("templates", name).read_text(encoding="utf-8"))


def _digest(name: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode()}"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else in_words(value)


def _line(value: Any, most: int = 120) -> str:
    return one_line(str(value), most)


def _shown(value: Any, most: int = _EXAMPLE_CHARACTERS) -> str:
    return visible(shortened("" if value is None else str(value), most))
