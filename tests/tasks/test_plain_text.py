"""A terminal or a page shows the control characters that a model writes, and does not obey them."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.plain_text import clock, markdown, one_line, plain_number, shortened, visible

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnp.exe \r\x08 \x00 \ud800 \u2028"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof two lines", "plain\ttext\nof two lines"),
        ("dos\r\nlines", "dos\nlines"),
        ("\x1b[2J", "␛[2J"),
        ("a\x07b\x00c", "a␇b␀c"),
        ("\u202eevil", "[RIGHT-TO-LEFT OVERRIDE]evil"),
        ("\x9b31m", "[U+009B]31m"),
        ("日本語 ½ é 👍", "日本語 ½ é 👍"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_controls_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_nothing_visible_is_a_control(text: str) -> None:
    assert all(character.isprintable() or character in "\n\t" or ord(character) > 0x9F for character in visible(text))


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_one_line_is_one_line(text: str, max_length: int) -> None:
    line = one_line(text, max_length)
    assert len(line) <= max_length
    assert not set(line) & {"\n", "\t", "\r", "\x1b", "\u2028"}


@given(st.text(st.sampled_from("ab \\n\\\\`*_[]()<>{}|~#&!$@:/.-+=;'\"1"), max_size=40))
def test_markdown_shows_text_as_it_is(text: str) -> None:
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = markdown(f"x{text}x")
    assert [token.type for token in page.parseInline(shown)[0].children or ()] in (["text"], ["text", "text_special"])
    assert html.unescape(page.renderInline(shown)) == one_line(f"x{text}x", 500)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Qwen/Qwen2.5-0.5B (main)", "Qwen/Qwen2.5-0.5B (main)"),
        ("[a](https://b.c)", r"\[a\](https\://b.c)"),
        ("www.evil.example a@b.c", r"www\.evil.example a\@b.c"),
        ("<img src=x>|$x$", r"\<img src=x\>\|\$x\$"),
        (0.5, "0.5"),
    ],
)
def test_markdown_has_no_links_of_its_own(text: object, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3.0, "3"), (-0.0, "0"), (0.5, "0.5"), (1e300, "1e+300"), (float("inf"), "inf"), (True, "True"), ("3.0", "3.0")],
)
def test_a_whole_number_has_no_fraction(value: object, shown: str) -> None:
    assert str(plain_number(value)) == shown


def test_shortened_says_how_much_is_missing() -> None:
    text = "a" * 600 + "b" * 400
    assert shortened(text, 1000) == text
    assert shortened(text, 90) == "a" * 60 + " … [910 characters left out] … " + "b" * 30


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3600, "1:00:00")])
def test_a_duration_has_hours_where_it_takes_some(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
