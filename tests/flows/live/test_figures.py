"""The figures of several runs that are collected together, and the last message of an engine's log."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.live.figures import Figures, last_line
from flows.live.state import LiveState
from flows.live.view import panel_lines
from flows.reporting.progress import Progress
from flows.shards.generation import run_names
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.results.rewards_so_far import RewardsSoFar
from tests.support.synthetic import write_run

CORE = "(EngineCore pid=12) "


def test_several_runs_have_a_row_each_in_their_order_and_under_names_that_differ(tmp_path: Path) -> None:
    plan = plan_run(config_from_parameters({"profile": "cpu-demo", "questions": 2}), tmp_path)
    plans = []
    for step in (9, 10, 100):
        paths = write_run(tmp_path / f"{'a-long-profile-name-' * 4}{step}", shards=2, accuracy=step / 100)
        model = replace(plan.model, path=Path(f"/checkpoints/step-{step}"))
        plans.append(replace(plan, model=model, paths=paths))
    progress = Progress(total=1000, rewards=RewardsSoFar(several=True))
    figures = Figures(
        progress, subject="3 runs", names=run_names(plans), num_shards=6, logs=tmp_path / "logs", gpu_bytes={}
    )

    def rows() -> list[str]:
        progress.rewards.read(60)
        state = figures.fill(LiveState(phase="generating", phase_seconds=1, elapsed=1))
        lines = [line.plain for line in panel_lines(state, width=79, height=24)]
        return [line.split()[0] for line in lines if line.startswith("step-")]

    progress.rewards.add(plans[0].paths, 0)
    assert rows() == ["step-9"]
    for each in plans:
        for index in (0, 1):
            if (each, index) != (plans[0], 0):
                progress.rewards.add(each.paths, index)
    assert rows() == ["step-9", "step-10", "step-100"]
    same = [replace(each, model=plan.model) for each in plans]
    assert run_names(same) == {each.run_id: each.run_id for each in plans}


@pytest.mark.parametrize(
    ("log", "last"),
    [
        ("INFO 11-29 10:00:00 [core.py:1] loading\n", "loading"),
        (f"{CORE}INFO 11-29 10:00:00 [core.py:1] loading\r\x1b[1mhalf\n\n", "half"),
        ("/lib/a.py:7: UserWarning: old call\n  warnings.warn(\n", "/lib/a.py:7: UserWarning: old call"),
        (f"{CORE}/lib/a.py:7: UserWarning: old\n{CORE}  warnings.warn(\n", f"{CORE}/lib/a.py:7: UserWarning: old"),
        ("  alone\n", ""),
    ],
)
def test_the_last_message_is_no_source_line_of_a_warning(tmp_path: Path, log: str, last: str) -> None:
    (tmp_path / "replica-0-1.log").write_text(log)
    assert last_line(tmp_path) == last
