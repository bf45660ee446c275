"""What a run does when its Prefect server is gone for good: it goes on, and ends by what became of its data.

The body of a flow needs no server, as Prefect keeps the states of tasks in this process. But when the body has ended,
Prefect's engine tries for minutes to tell the server, raises, and forgets what the body returned; and its threads for
logs and events keep the process alive for minutes more. So the command ends the process itself when the body has ended.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from flows.terminal import print_error

if TYPE_CHECKING:
    from tasks.results.collected import Collected

    Outcome = Collected | Exception
    """How the body of a flow ended: what it returned or raised."""

_lost = False
_outcome: "Outcome | None" = None
_end_command: "Callable[[Outcome], NoReturn] | None" = None


def declare_lost(why: str) -> None:
    """Note that no request can succeed any more, and tell the user so. ``why`` begins the line."""
    global _lost
    _lost = True
    warn(f"{why}. The run goes on without a server, which does not get to know its end")


def is_lost() -> bool:
    """Return whether the Prefect server of this process is gone for good."""
    return _lost


def end_without_server(end_command: "Callable[[Outcome], NoReturn]") -> None:
    """Have ``end_command`` called with the outcome when a flow's body has ended and the server is lost."""
    global _end_command
    _end_command = end_command


def body_ended(outcome: "Outcome") -> None:
    """Note how the flow's body ended. Does not return if the server is lost and the command ends without it."""
    global _outcome
    _outcome = outcome
    if _lost and _end_command is not None:
        _end_command(outcome)


def known_outcome() -> "Outcome | None":
    """Return how the flow's body ended, whatever Prefect made of it; None if it has not."""
    return _outcome


def warn(text: str) -> None:
    """Print a warning as a line of its own, also where a progress line is on the terminal. Any thread may call it."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    print_error(f"warning: {text}")
    sys.stderr.flush()
