"""A run's rung of the OOM ladder, kept on disk, and the rung that worked, saved for runs of the same kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import DamagedFile, RunLocked
from tasks.files import publish_text
from tasks.generation.rung_state import RungChange, RungState, forget_rung, load_rung, save_rung
from tasks.locks import run_lock
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run


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


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text.replace('"rung": 1', '"rung": "x"'), "rung: "),
        (lambda text: text.replace("2026-01", "2026-1x"), r"changes\.0\.at: "),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, damage: Callable[[str], str], told: str) -> None:
    path = tmp_path / "oom.json"
    RungState(path).step_down(change(1))
    path.write_text(damage(path.read_text()))
    with pytest.raises(DamagedFile, match=rf"oom\.json is damaged: {told}"):
        RungState(path)


def make_plan(folder: Path, *, batch: int = 8, seed: int = 0, name: str = "small") -> RunPlan:
    profile = folder / f"{name}.toml"
    profile.write_text(
        f'name = "{name}"\nmodel = "demo"\nquestion_batch_size = {batch}\n[engine]\ndtype = "float32"\n'
        '[expect]\ndevice = "cpu"\n'
    )
    config = RunConfig.model_validate({"profile": str(profile), "sampling": {"seed": seed}})
    return plan_run(config, folder / "runs")


def test_a_later_run_of_the_same_kind_loads_the_rung_and_another_kind_does_not(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert load_rung(plan) == 0
    save_rung(plan, 2)
    assert load_rung(plan) == 2
    other_run, renamed = make_plan(tmp_path, seed=1), make_plan(tmp_path, name="renamed")
    assert other_run.run_id != plan.run_id
    assert (load_rung(other_run), load_rung(renamed)) == (2, 2)
    assert load_rung(make_plan(tmp_path, batch=4)) == 0


def test_a_run_that_never_stepped_down_saves_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    save_rung(plan, 0)
    assert not (tmp_path / "runs").exists()


def test_a_damaged_saved_rung_counts_as_none(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    save_rung(plan, 2)
    [path] = (tmp_path / "runs" / ".memory").glob("rung-*.json")
    path.write_text("{")
    assert load_rung(plan) == 0


def test_a_damaged_state_is_forgotten_too(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    save_rung(plan, 1)
    [saved] = (tmp_path / "runs" / ".memory").glob("rung-*.json")
    saved.unlink()
    saved.mkdir()
    publish_text("[", plan.paths.state / "oom_ladder.json")
    assert forget_rung(plan)
    assert load_rung(plan) == 0


def test_forgetting_begins_at_the_full_batch_again_in_this_run_too(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert not forget_rung(plan)
    save_rung(plan, 1)
    step_down(plan)
    assert forget_rung(plan)
    assert load_rung(plan) == 0
    state = RungState(plan.paths.state / "oom_ladder.json")
    assert state.rung == 0
    assert len(state.changes) == 1
    assert not forget_rung(plan)


def test_a_run_that_is_being_worked_on_keeps_its_rung(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    step_down(plan)
    with run_lock(plan.paths.state / "lock"), pytest.raises(RunLocked):
        forget_rung(plan)
    assert RungState(plan.paths.state / "oom_ladder.json").rung == 1


def step_down(plan: RunPlan) -> None:
    RungState(plan.paths.state / "oom_ladder.json").step_down(
        RungChange(
            at="2026-01-01T00:00:00+00:00",
            from_rung=0,
            to_rung=1,
            kind="device",
            phase="run",
            reason="CUDA",
            settings={},
        )
    )
