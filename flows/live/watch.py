"""What the command and the flow know of a run while it runs, kept for the panel, whose thread reads it."""

import dataclasses
import time
from collections.abc import Callable

from flows.live.state import LiveState

Fill = Callable[[LiveState], LiveState]
"""Returns the state with more figures."""


class Watch:
    """The phase of a run, and where its figures come from. Any thread may ask for the state."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._phase = ("starting", self._began)
        self._note = ""
        self._fill: Fill = lambda state: state

    def enter(self, phase: str) -> None:
        """Begin ``phase``, unless it is the phase already."""
        if phase != self._phase[0]:
            self._note = ""
            self._phase = (phase, self._now())

    def note(self, text: str) -> None:
        """Show ``text`` while this phase lasts, or until the next note."""
        self._note = text

    def follow(self, fill: Fill) -> None:
        """Take the figures of later states from ``fill``."""
        self._fill = fill

    def state(self) -> LiveState:
        phase, since = self._phase
        now = self._now()
        bare = LiveState(phase=phase, phase_seconds=now - since, elapsed=now - self._began, note=self._note)
        return self._fill(bare)


def with_phase(state: LiveState, phase: str, seconds: float, note: str = "") -> LiveState:
    """Return the state in another phase, which has lasted for ``seconds``."""
    return dataclasses.replace(state, phase=phase, phase_seconds=max(0.0, seconds), note=note or state.note)
