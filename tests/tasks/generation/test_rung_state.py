"""A run's rung of the OOM ladder, kept on disk."""

from pathlib import Path

import pytest

from tasks.generation.rung_state import RungChange, RungState


def change(to_rung: int) -> RungChange:
    return RungChange(
        at="2026-01-01T00:00:00+00:00",
        from_rung=to_rung - 1,
        to_rung=to_rung,
        kind="device",
        phase="run",
        reason="CUDA out of memory",
        settings={"rung": to_rung},
    )


def test_the_rung_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "oom.json"
    state = RungState(path)
    assert (state.rung, state.changes) == (0, [])
    state.step_down(change(1))
    state.step_down(change(2))
    again = RungState(path)
    assert (again.rung, again.changes) == (2, [change(1), change(2)])


def test_a_fresh_run_begins_at_the_given_rung_and_a_resumed_one_at_its_own(tmp_path: Path) -> None:
    path = tmp_path / "oom.json"
    fresh = RungState(path)
    fresh.begin_at(0)
    assert not path.exists()
    fresh.begin_at(2)
    assert RungState(path).rung == 2
    resumed = RungState(path)
    resumed.begin_at(4)
    assert (resumed.rung, RungState(path).rung) == (2, 2)


def test_starting_over_keeps_the_record_of_earlier_steps(tmp_path: Path) -> None:
    path = tmp_path / "oom.json"
    state = RungState(path)
    state.step_down(change(1))
    state.start_over()
    again = RungState(path)
    assert (again.rung, again.changes) == (0, [change(1)])


def test_a_damaged_state_counts_as_none_and_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "oom.json"
    path.write_text('{"rung": "x"}')
    assert RungState(path).rung == 0
    assert "oom.json is damaged: rung: " in caplog.text
