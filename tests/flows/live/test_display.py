"""What is shown where nothing can be redrawn, and on a terminal."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TextIO

import pytest

from flows.live.display import open_display
from flows.live.lines import Lines
from flows.live.panel import Panel
from tests.support.patience import HANG_SECONDS, until
from tests.support.terminal import Terminal


def test_a_log_gets_messages_and_no_line_for_every_tick() -> None:
    log = io.StringIO()
    with Lines(log) as display:
        display.progress("0/8 rollouts")
        display.print_line("started")
        display.watch.enter("preflight")
        display.progress("1/8 rollouts")
    assert log.getvalue() == "started\n"


@pytest.mark.parametrize(("kind", "opened"), [(Lines, os.pipe), (Panel, os.openpty)], ids=["pipe", "terminal"])
def test_a_reader_that_is_gone_ends_no_run(kind: type[Lines], opened: Callable[[], tuple[int, int]]) -> None:
    reader, writer = opened()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    with kind(stream) as display:
        display.print_line("told")
        display.print_line("told again")
    display.print_line("told at the end")
    with contextlib.suppress(OSError):
        stream.close()


def test_text_of_others_does_not_drive_the_terminal() -> None:
    log = io.StringIO()
    Lines(log).print_line("arm \x1b]52;c;aGk=\x07\u202e of two\nlines")
    assert log.getvalue() == "arm ␛]52;c;aGk=␇[RIGHT-TO-LEFT OVERRIDE] of two\nlines\n"


@pytest.mark.parametrize(
    ("term", "lines", "kind"),
    [("xterm", False, Panel), ("xterm", True, Lines), ("dumb", False, Lines), ("", False, Lines)],
)
def test_only_a_terminal_that_can_redraw_gets_a_panel(
    term: str, lines: bool, kind: type[Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    with Terminal() as terminal, terminal.stream() as sys.stderr, open_display(lines=lines) as display:
        assert type(display) is kind
    sys.stderr = sys.__stderr__


def test_what_is_no_terminal_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with open_display(lines=False) as display:
        display.print_line("told")
    assert type(display) is Lines
    assert capsys.readouterr().err == "told\n"


@pytest.fixture
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("plain_terminal")
def test_messages_stay_above_the_panel_which_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal() as terminal:
        with terminal.stream() as stream, Panel(stream) as panel:
            panel.watch.enter("loading engine")
            panel.print_line("OOM: halved the batch")
            panel.print_line(f"{'word ' * 30}/a/path/that-is-not-broken  end")
            sys.stderr.write("of a library\n  45% of a download\r 50% of a download")
            panel.print_line("another")
            until(lambda: any("50% of a download" in line for line in terminal.lines), "the note is shown")
            assert any("loading engine 0:0" in line for line in terminal.lines)
            stderr = sys.stderr
        # a library may keep the stream
        stderr.write("later\n")
    # a line of 80 cells has sixteen words, and the path is whole
    long = [" ".join(["word"] * 16), " ".join(["word"] * 14), "/a/path/that-is-not-broken  end"]
    assert terminal.lines == ["OOM: halved the batch", *long, "of a library", "another", " 50% of a download"]
    assert "\x1b[1m" in terminal.raw
    assert capsys.readouterr().err == "later\n"


@pytest.mark.usefixtures("plain_terminal")
def test_after_an_error_it_says_how_far_the_run_came() -> None:
    def interrupt(stream: TextIO) -> None:
        with Panel(stream) as panel:
            panel.progress("72/160 rollouts")
            raise KeyboardInterrupt

    with Terminal() as terminal, terminal.stream() as stream, pytest.raises(KeyboardInterrupt):
        interrupt(stream)
    assert terminal.lines == ["72/160 rollouts"]


def is_drawn(terminal: Terminal, message: str) -> bool:
    lines = terminal.lines
    return message in lines and lines[-1].startswith("the last line")


@pytest.mark.usefixtures("plain_terminal")
def test_a_terminal_that_becomes_narrow_is_not_filled_with_pieces_of_the_panel() -> None:
    # drawn by messages alone, so that nothing is on its way while the terminal changes
    with Terminal(columns=100) as terminal:  # noqa: SIM117  # all is read when the stream and the panel are closed
        with terminal.stream() as stream, Panel(stream, refresh_s=HANG_SECONDS) as panel:
            until(lambda: terminal.lines, "the panel is drawn")
            panel.print_line("first")
            panel.watch.note("the last line of a log " * 10)
            for columns in (60, 30, 90):
                panel.print_line(f"before {columns}")
                until(partial(is_drawn, terminal, f"before {columns}"), "the panel is drawn")
                terminal.resize(columns)
                panel.print_line(f"after {columns}")
    told = [f"{when} {columns}" for columns in (60, 30, 90) for when in ("before", "after")]
    assert terminal.lines == ["first", *told]


@pytest.mark.usefixtures("plain_terminal")
def test_without_colours_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Terminal() as terminal, terminal.stream() as stream, Panel(stream) as panel:
        panel.print_line("told")
    assert "\x1b[36m" not in terminal.raw
