"""Rollouts are found and shown, runs listed and compared."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import RenderableType

from flows.console import PlainConsole
from tasks.errors import ConfigError
from tasks.files import publish_json, publish_text, read_json
from tasks.locks import run_lock
from tasks.records import RunPaths
from tasks.results.rescore import rescore_run
from tasks.results.rollout_search import RolloutFilter, count_rollouts, find_rollouts, render_rollouts
from tasks.results.run_diff import diff_runs, render_diff
from tasks.results.run_list import list_runs, render_runs
from tasks.results.scored_rollouts import load_metric_rows, scored_shards
from tasks.storage.run_files import write_manifest
from tests.support.harvest_command import harvest, harvest_here
from tests.support.stopped_rollouts import write_stopped_run
from tests.support.synthetic import publish_shard, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return write_run(tmp_path_factory.mktemp("runs") / "run", arms=3, samples=2, truncated=0.3, error_rows=0.2)


def text_of(content: RenderableType) -> str:
    console = PlainConsole(width=200, force_terminal=False)
    with console.capture() as captured:
        console.print(content)
    return captured.get()


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        (RolloutFilter(), pl.lit(True)),
        (RolloutFilter(arm="concise"), pl.col("arm_id") == "concise"),
        (RolloutFilter(example="q0000005"), pl.col("example_id") == "q0000005"),
        (RolloutFilter(outcome="wrong"), pl.col("reward") == 0),
        (RolloutFilter(outcome="right", truncated=True), (pl.col("reward") == 1) & pl.col("is_truncated")),
        (
            RolloutFilter(outcome="error", arm="algebra"),
            pl.col("error").is_not_null() & (pl.col("arm_id") == "algebra"),
        ),
    ],
)
def test_filters(wanted: RolloutFilter, condition: pl.Expr, run: RunPaths) -> None:
    expected = pl.concat([frame for _, frame in scored_shards(run.root, ["rollout_id"], where=condition)])

    found = [rollout["rollout_id"] for rollout in find_rollouts(run.root, wanted)]
    assert found == expected["rollout_id"].to_list() != []
    assert count_rollouts(run.root, wanted) == len(found)


def test_a_run_of_many_shards_is_counted_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    run = write_run(tmp_path / "run", shards=1, questions_per_shard=1, arms=1, tokens=1)
    shards = 600
    publish_json({**read_json(run.config), "num_shards": shards}, run.config)
    for index in range(1, shards):
        for folder in (run.root, run.state):
            for first in folder.glob("[rs]*/shard-00000.*"):
                os.link(first, first.with_stem(f"shard-{index:05d}"))
    assert count_rollouts(run.root, RolloutFilter()) == shards
    assert not list(recwarn)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (RolloutFilter(arm="poetry"), "has no arm 'poetry'; it has algebra, concise, step_by_step"),
        (RolloutFilter(example="q1"), "has no example 'q1'; its ids look like 'q0000000'"),
    ],
)
def test_unknown_names(wanted: RolloutFilter, message: str, run: RunPaths) -> None:
    with pytest.raises(ConfigError, match=message):
        list(find_rollouts(run.root, wanted))


def test_a_run_in_progress_can_be_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", arms=1)
    run.scores(1).unlink()
    run.rollouts(0).unlink()

    rollouts = list(find_rollouts(run.root, RolloutFilter()))
    assert [rollout["reward"] for rollout in rollouts] == [None] * 4
    assert "not scored" in text_of(render_rollouts(rollouts, shown=4, found=4))
    assert [listed.state for listed in list_runs(tmp_path)] == ["interrupted"]


def test_hostile_text_is_shown_and_not_interpreted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1, questions_per_shard=1, arms=1)
    evil = "[bold]not markup[/bold] \x1b]0;owned\x07\x1b[2J"
    publish_shard(
        pl.read_parquet(run.rollouts(0)).with_columns(
            completion=pl.lit(evil),
            prompt=pl.lit(
                [{"role": "user", "content": evil}], dtype=pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
            ),
        ),
        run.rollouts(0),
    )
    added = {"words": pl.lit(3.0), "share": pl.lit(0.5)}
    publish_shard(pl.read_parquet(run.scores(0)).with_columns(extracted_answer=pl.lit(evil), **added), run.scores(0))

    rollouts = list(find_rollouts(run.root, RolloutFilter()))
    shown = text_of(render_rollouts(rollouts, shown=1, found=1))
    assert "\x1b" not in shown
    assert "words 3; share 0.5; " in shown
    assert "\x07" not in shown
    assert shown.count("[bold]not markup[/bold]") == 3


def test_states_of_runs(tmp_path: Path) -> None:
    done, running, half = (write_run(tmp_path / name, arms=1) for name in ("done", "running", "half"))
    write_manifest(done.root)
    half.rollouts(1).unlink()
    with run_lock(running.state / "lock"):
        runs = {run.run_id: run for run in list_runs(tmp_path)}

    assert {name: run.state for name, run in runs.items()} == {
        "done": "finished",
        "running": "running",
        "half": "interrupted",
    }
    files = [path for path in done.root.rglob("*") if path.is_file()]
    assert (runs["done"].rollouts, runs["done"].bytes) == (8, sum(path.stat().st_size for path in files))
    shown = text_of(render_runs(list(runs.values())))
    assert f"running: running, process {os.getpid()} on " in shown
    assert "half: interrupted, rollouts/shard-00001.parquet is lost (1 in all)" in shown


@pytest.mark.slow
def test_a_damaged_file_does_not_hide_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "sound", arms=1)
    damaged = write_run(tmp_path / "damaged", arms=1)
    for path in (damaged.report, damaged.equivalence):
        path.write_text("{")
    # a process of its own, as pytest takes what is logged
    listed = harvest("runs", "--runs-dir", tmp_path, "--json")

    assert listed.code == 0, listed.stderr
    assert {run["run_id"]: run["mean_reward"] for run in json.loads(listed.stdout)} == {"sound": None, "damaged": None}
    assert [line.partition(" ")[0] for line in listed.stderr.splitlines()] == [
        str(damaged.report),
        str(damaged.equivalence),
    ]


def test_one_bad_directory_does_not_hide_the_other_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "sound", arms=1)
    configs = [
        "",
        "[" * 100_000,
        '{"fingerprint": "x", "num_rollouts": "many"}',
        '{"fingerprint": "x", "num_rollouts": []}',
    ]
    for index, text in enumerate(configs):
        publish_text(text, tmp_path / f"bad-{index}" / "config.json")
    (tmp_path / "bad-directory" / "config.json").mkdir(parents=True)
    odd = write_run(tmp_path / "bad-files", arms=1)
    for path in (odd.rollouts(0), odd.state / "lock", odd.report):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    runs = {run.run_id: run for run in list_runs(tmp_path)}
    assert len(runs) == 3 + len(configs)
    assert (runs["sound"].rollouts, runs["sound"].rollouts_planned) == (8, 8)
    assert all(str(tmp_path / name) in caplog.text for name in runs if name != "sound")
    assert text_of(render_runs(list(runs.values())))


def test_diff_counts_what_changed(tmp_path: Path) -> None:
    first, second = (
        write_run(tmp_path / name, questions_per_shard=20, arms=2, variant=variant, divergence=0.5)
        for variant, name in enumerate(("first", "second"))
    )
    rewards = [
        pl.concat([frame for _, frame in scored_shards(run.root, ["arm_id", "reward"])]) for run in (first, second)
    ]
    pairs = rewards[0].with_columns(other=rewards[1]["reward"])

    diff = diff_runs(first.root, second.root, most=3)
    assert diff.flips.correct_only_in_baseline == pairs.filter(pl.col("reward") > pl.col("other")).height > 0
    assert diff.flips.correct_only_in_candidate == pairs.filter(pl.col("reward") < pl.col("other")).height > 0
    assert sum(arm.lost for arm in diff.arms) == diff.flips.correct_only_in_baseline
    assert (diff.first_mean, diff.second_mean) == pytest.approx((pairs["reward"].mean(), pairs["other"].mean()))
    assert len(diff.examples) == 3
    shown = text_of(render_diff(diff))
    assert all(flip.first_completion in shown for flip in diff.examples)


def test_of_runs_with_a_rule_the_first_samples_are_compared(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"shards": 1, "arms": 2, "questions_per_shard": 20}
    runs = [
        write_stopped_run(tmp_path / name, "correct:2", variant=variant, **asked)
        for variant, name in enumerate(("one", "two"))
    ]
    rows = load_metric_rows(runs[0])
    first = rows.filter(pl.col("sample_index") < 2)["reward"].mean()
    assert first != rows["reward"].mean()
    diff = diff_runs(runs[0].root, runs[1].root)
    assert (diff.flips.rollouts, diff.first_only, diff.second_only) == (20 * 2 * 2, 0, 0)
    assert diff.first_mean == pytest.approx(first)
    assert rescore_run(runs[0].root, "gsm8k").old_mean_reward == pytest.approx(first)


def test_diff_refuses_other_questions(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", arms=1)
    others = write_run(tmp_path / "others", arms=1, seed=7)

    with pytest.raises(ConfigError, match="another ground truth"):
        diff_runs(first.root, others.root)
    with pytest.raises(ConfigError, match="share no scored rollout"):
        diff_runs(first.root, write_run(tmp_path / "arms", arms=["poetry"]).root)


def test_diff_refuses_questions_of_another_text_with_the_same_ids_and_golds(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, arms=1, error_rows=0.2) for name in ("first", "second"))
    diff_runs(first.root, second.root)
    questions = pl.read_parquet(second.questions(1))
    other = questions.with_columns(
        question=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("?")).otherwise("question")
    )
    publish_shard(other, second.questions(1))

    with pytest.raises(ConfigError, match=f"with another text, such as '{questions['example_id'][0]}'"):
        diff_runs(first.root, second.root)


def test_commands(run: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str | Path) -> str:
        assert harvest_here(*arguments, "--runs-dir", run.root.parent) == 0
        return capsys.readouterr().out

    assert told("show", "run", "--wrong", "--limit", "2").count("wrong") == 2
    lines = told("show", run.root, "--json", "--limit", "0").splitlines()
    assert len(lines) == 48
    assert {"completion", "reward", "prompt"} <= json.loads(lines[0]).keys()
    assert told("runs").count("run") >= 2
    assert [item["run_id"] for item in json.loads(told("runs", "--json"))] == ["run"]
    assert json.loads(told("diff", "run", "run", "--json"))["flips"]["answers_changed"] == 0
    exported = told("export", "run", "--to", "verl", "--out", tmp_path / "out", "--json")
    assert json.loads(exported)["to"] == "verl"


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nowhere"),
        ("show", "run", "--arm", "poetry"),
        ("show", "run", "--wrong", "--right"),
        ("show", "run", "--limit", "-1"),
        ("diff", "run", "nowhere"),
        ("score", "run", "--scorer", "poetry"),
        ("export", "run", "--to", "verl", "--out", ""),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here(*arguments, "--runs-dir", run.root.parent) == 2
    printed = capsys.readouterr()
    assert (printed.err.count("\n"), printed.out) == (1, ""), printed.err


def test_score_counts_changed_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", arms=1)
    assert harvest_here("score", run.root, "--scorer", "gsm8k", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    # the synthetic completions hold the right answer, whatever their synthetic score says
    assert report["rollouts"] == 8
    assert Path(report["directory"]).is_dir()
    assert harvest_here("score", run.root) == 0
    assert "rewards changed" in capsys.readouterr().out
