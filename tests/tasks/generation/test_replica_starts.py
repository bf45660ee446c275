"""When another engine on a GPU is started: the work left must take longer than its start."""

import pytest

from tasks.generation.replica_starts import start_pays


@pytest.mark.parametrize(
    ("seconds", "finished", "to_make", "pays"),
    [
        pytest.param(0.0, 0, 24_000, False, id="nothing is known yet"),
        pytest.param(59.0, 1_023, 24_000, False, id="the first batch is not finished"),
        pytest.param(61.0, 0, 4_000, True, id="the first batch takes longer than a start"),
        pytest.param(6.0, 1_024, 4_000, False, id="4,000 short rollouts"),
        pytest.param(6.0, 1_024, 24_000, True, id="24,000 of them"),
        pytest.param(90.0, 20_000, 24_000, False, id="near the end"),
        pytest.param(6.0, 1_024, 1_024, False, id="all are finished"),
    ],
)
def test_a_start_pays_when_the_work_left_takes_longer(seconds: float, finished: int, to_make: int, pays: bool) -> None:
    assert start_pays(start_seconds=60.0, seconds=seconds, finished=finished, to_make=to_make, batch=1_024) == pays
