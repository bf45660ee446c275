"""Runs code of the user, such as a scorer, so that whatever it raises is one error of ours, which names it."""

import contextlib
import os
import posix
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from tasks.errors import ConfigError
from tasks.plain_text import one_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
"""Signals whose handlers raise: Ctrl-C, the end of a flow, a time limit."""
_MAX_CHARACTERS = 500
_exit_process = os._exit
_running = threading.local()
"""``pid`` is this process's in a thread that runs code of the user; a fork of it has another one."""


@contextlib.contextmanager
def user_code(message: Callable[[str], str]) -> Iterator[None]:
    """Raise ConfigError for every exception of the block, also for those that are no ``Exception``, as of ``sys.exit``.

    ``message`` makes the error's text of what was raised, in words. What the handler of a signal raises meanwhile
    passes through unchanged. ``os._exit`` raises SystemExit in the block: with code 0 a run that it ends would look
    finished. A process that the block forks ends where the block does. The working directory is put back.
    """
    began = os.getpid()
    with _kept_directory(), _handled_signals() as handled, _no_silent_exit():
        try:
            yield
        except BaseException as error:
            if handled:
                raise
            raise ConfigError(message(in_words(error))) from error
        finally:
            if os.getpid() != began:
                # the code has forked this process, and two must not go on as one run
                _exit_process(0)


def in_words(error: BaseException) -> str:
    """The error's type and text, on one line."""
    text = one_line(text_of(error), _MAX_CHARACTERS)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    """The error's text, which the user's code may make and may fail to make."""
    try:
        return str(error)
    except BaseException as another:
        return f"its text cannot be read, which raised {type(another).__name__}"


@contextlib.contextmanager
def _kept_directory() -> Iterator[None]:
    """Go back to the working directory after the block: a run's relative paths would mean others."""
    before = _directory()
    try:
        yield
    finally:
        if before is not None and _directory() != before:
            os.chdir(before)


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # a tenth of the time of Path.cwd, and this is called for every answer
    except OSError:
        return None  # it was removed


@contextlib.contextmanager
def _no_silent_exit() -> Iterator[None]:
    before = getattr(_running, "pid", None)
    # it stays: other threads and processes get what they had, and taking it away would race with them
    for module in (os, posix):
        setattr(module, "_exit", _exit_unless_user_code)  # noqa: B010  # mypy allows no assignment to a function
    _running.pid = os.getpid()
    try:
        yield
    finally:
        _running.pid = before


def _exit_unless_user_code(status: int) -> NoReturn:
    if getattr(_running, "pid", None) == os.getpid():
        raise SystemExit(f"os._exit({status})")
    _exit_process(status)


@contextlib.contextmanager
def _handled_signals() -> Iterator[list[int]]:
    """Yield a list to which each signal is added that is handled in the block.

    A KeyboardInterrupt of Ctrl-C looks like one that code raises by itself. Python handles signals in the main thread
    alone, so in another thread the list stays empty.
    """
    handled: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield handled
        return

    def noting(handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], object]:
        def handle(number: int, frame: FrameType | None) -> object:
            handled.append(number)
            return handler(number, frame)

        return handle

    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    noted = {number: noting(handler) for number, handler in handlers.items()}
    for number, handler in noted.items():
        signal.signal(number, handler)
    try:
        yield handled
    finally:
        for number, handler in handlers.items():
            # the handler of a signal that came may have set another one
            if number not in handled or signal.getsignal(number) is noted[number]:
                signal.signal(number, handler)
