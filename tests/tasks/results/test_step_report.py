"""The page of rewards by step: every run, arm and interval, in the order of the steps, and escaped."""

import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tasks.errors import ConfigError
from tasks.files import publish_json
from tasks.results.page_plots import StepSeries, step_plot
from tasks.results.reward_interval import Interval
from tasks.results.run_end import record_end
from tasks.results.run_report import publish_report
from tasks.results.step_report import matching_runs, publish_steps, read_steps, render_steps
from tasks.results.summary import summarize_run
from tasks.storage.run_files import write_manifest
from tests.support.synthetic import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the checkpoints of steps 1000, 900 and 1100, whose names are no steps."""
    folder = tmp_path_factory.mktemp("runs")
    for number, step in enumerate((1000, 900, 1100)):
        run = write_run(folder / f"run-{'abc'[number]}", variant=number)
        report = summarize_run(run.root)
        if step == 1100:
            report = replace(report, dataset="<script>alert(1)</script>")
        publish_report(report, run.root)
        config = {"fingerprint": "f", "model": {"path": f"/models/run7/step-{step}"}, "tested": {}, "comparable": {}}
        publish_json(config, run.config)
    return folder


def test_runs_are_in_the_order_of_their_steps(runs: Path) -> None:
    steps = read_steps([runs / "run-a", runs / "run-b", runs / "run-c"])
    assert [(run.step, Path(run.report.run_dir).name) for run in steps.runs] == [
        (900, "run-b"),
        (1000, "run-a"),
        (1100, "run-c"),
    ]
    assert steps.arms[0] == "all"
    assert set(steps.arms[1:]) == {str(arm.arm_id) for arm in steps.runs[0].report.arms}


def test_several_runs_of_a_checkpoint_have_its_step(runs: Path, tmp_path: Path) -> None:
    again = shutil.copytree(runs / "run-b", tmp_path / "run-b2")
    steps = read_steps([runs / "run-a", runs / "run-b", runs / "run-c", again])
    assert [run.step for run in steps.runs] == [900, 900, 1000, 1100]
    publish_json(
        {"fingerprint": "f", "model": {"path": "/models/base"}, "tested": {}, "comparable": {}}, again / "config.json"
    )
    steps = read_steps([runs / "run-c", runs / "run-a", again])
    assert [(run.step, Path(run.checkpoint).name) for run in steps.runs] == [
        (1, "base"),
        (2, "step-1000"),
        (3, "step-1100"),
    ]


def test_the_step_of_a_run_with_an_adapter_is_that_of_the_adapter(tmp_path: Path) -> None:
    for step in (20, 10):
        run = write_run(tmp_path / f"run-{step}")
        publish_report(summarize_run(run.root), run.root)
        model = {"path": "/models/base", "adapter": {"path": f"/loras/step-{step}"}}
        publish_json({"fingerprint": "f", "model": model, "tested": {}, "comparable": {}}, run.config)
    steps = read_steps([tmp_path / "run-20", tmp_path / "run-10"])
    assert [(run.step, run.checkpoint) for run in steps.runs] == [(10, "/loras/step-10"), (20, "/loras/step-20")]
    assert steps.key.startswith("loras-")


def test_the_page_stands_alone_and_has_each_reward(runs: Path, tmp_path: Path) -> None:
    steps = read_steps([runs / "run-c", runs / "run-a"])
    page = publish_steps(steps, tmp_path)
    text = page.read_text()
    assert page.name == f"steps-{steps.key}.html"
    # of two runs that a user names, the page says which they are
    ids = [run.report.run_id for run in steps.runs]
    assert publish_steps(steps, tmp_path, by_runs=True).name == f"steps-{ids[0]}-and-{ids[1]}.html"
    assert text.count("<script") == 1
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    for run in steps.runs:
        assert f">{run.step:,}<" in text
        for arm in run.arms.values():
            assert f"{arm.mean_reward:,.3f}" in text
    # the same checkpoints under the same settings have one page, whichever of them are there
    assert read_steps([runs / "run-a", runs / "run-b"]).key == steps.key


def test_the_page_says_in_which_state_each_run_is(runs: Path, tmp_path: Path) -> None:
    whole, failed = (shutil.copytree(runs / f"run-{name}", tmp_path / name) for name in "ab")
    write_manifest(whole)
    record_end(failed, ValueError("<b>no memory"))
    steps = read_steps([whole, failed])
    assert [(run.step, run.state.name) for run in steps.runs] == [(900, "failed"), (1000, "finished")]
    text = render_steps(steps)
    assert ">failed</span> <small>ValueError: &lt;b&gt;no memory<" in text
    assert ">finished</span></td>" in text
    assert "2 runs of 2 checkpoints" in text
    assert "asked different questions" not in text


def test_the_page_says_when_runs_asked_different_questions(runs: Path) -> None:
    # run-c is of another dataset, whose name is hostile
    text = render_steps(read_steps([runs / "run-a", runs / "run-a", runs / "run-c"]))
    assert "3 runs of 2 checkpoints" in text
    assert "asked different questions" in text
    assert "<script>alert" not in text


def test_a_run_that_is_not_finished_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no report\.json"):
        read_steps([runs / "run-a", tmp_path])


def test_a_pattern_names_finished_runs(runs: Path) -> None:
    assert matching_runs("run-[ab]", runs) == ["run-a", "run-b"]
    assert matching_runs("run-a", runs) == ["run-a"]
    assert matching_runs("s3://bucket/run-*", runs) == ["s3://bucket/run-*"]
    for pattern in ("step-*", f"{runs}/run-*", "../*", "n" * 300 + "*", "*/*"):
        with pytest.raises(ConfigError, match=r"no finished run in |name too long"):
            matching_runs(pattern, runs)


def test_a_pattern_names_runs_only(runs: Path, tmp_path: Path) -> None:
    publish_json({}, tmp_path / "page" / "report.json")
    shutil.copytree(runs / "run-a", tmp_path / "folder" / "run-b")
    shutil.copytree(runs / "run-a", tmp_path / "run-a")
    for pattern in ("*", "**"):
        assert matching_runs(pattern, tmp_path) == ["run-a"]


def test_the_plot_has_a_panel_per_arm_with_points_and_intervals() -> None:
    interval = Interval(low=0.2, high=0.6, method="wilson")
    series = [
        StepSeries(name="all", points=((900, 0.4, interval), (1000, 0.5, None))),
        StepSeries(name="<b>", points=((1000, 0.7, interval),)),
        StepSeries(name="none", points=()),
    ]
    root = ElementTree.fromstring(str(step_plot(series)))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}circle")) == 3
    assert [each.text for each in root.findall(f"{space}text") if each.text in ("all", "<b>", "none")] == [
        *("all", "<b>", "none")
    ]
