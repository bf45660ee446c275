"""A slow process is neither silent nor idle, and neither is one whose watcher was away."""

import pytest

from tasks.idleness import LOOK_S, Idleness, Silence

AWAY = 3600.0


class Watched:
    """A process that is looked at by a clock of its own."""

    def __init__(self) -> None:
        self.now = self.used = 0.0
        self.idleness = Idleness(lambda: self.used, lambda: self.now)

    def after(self, seconds: float, used: float) -> float:
        self.now += seconds
        self.used += used
        return self.idleness.seconds()


@pytest.mark.parametrize(
    ("looks", "idle"),
    [
        pytest.param([(LOOK_S, 0.0)] * 4, 3 * LOOK_S, id="it waits"),
        pytest.param([(LOOK_S, 0.01)] * 100, 0.0, id="it is slow"),
        pytest.param([(LOOK_S, 0.0)] * 3 + [(LOOK_S, 0.01)], 0.0, id="it goes on"),
        pytest.param([(LOOK_S, 0.0), (AWAY, 0.0)], LOOK_S, id="nobody could look"),
        pytest.param([(LOOK_S, 0.0), (LOOK_S / 2, 0.0)], LOOK_S / 2, id="no look is due"),
    ],
)
def test_a_process_is_idle_while_it_uses_no_processor_time(looks: list[tuple[float, float]], idle: float) -> None:
    watched = Watched()
    assert [watched.after(*look) for look in looks][-1] == idle


def test_silence_lasts_from_sign_to_sign_and_does_not_count_the_time_in_which_nobody_looked() -> None:
    now = 0.0
    silence = Silence(lambda: now)
    for now in (1, 3):
        assert silence.seconds() == now
    silence.end()
    now = 4
    assert silence.seconds() == 1
    now += AWAY
    assert silence.seconds() == 1 + LOOK_S
