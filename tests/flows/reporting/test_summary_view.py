"""The summary that ``harvest run`` prints without ``--json``."""

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from flows.reporting.summary_view import print_summaries, print_summary
from tasks.files import publish_json
from tasks.generation.generation_log import GenerationSession, add_session
from tasks.plan.run_config import DatasetSource, RunConfig
from tasks.plan.run_plan import plan_run
from tasks.results.summary import summarize_run
from tests.support.synthetic import ARMS, publish_shard, write_run


def test_it_shows_rewards_per_arm_speed_and_the_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8), shard_size=4), tmp_path)
    write_run(plan.paths.root, accuracy={arm: float(arm in ("concise", "verify")) for arm in ARMS})
    session = GenerationSession(
        started_at="",
        seconds=2,
        start_seconds=1,
        tokens=2468,
        rollouts=64,
        restarts=3,
        replicas=1,
        gpus=0,
        start_kind="cold",
    )
    add_session(plan.paths.state / "generation.json", session)

    publish_json(plan.to_json(), plan.paths.config)
    print_summary(summarize_run(plan.paths.root))

    shown = capsys.readouterr().out
    assert "8 questions x 8 arms: 64 rollouts" in shown
    means = dict(re.findall(r"^│ (\w+) +│ +([\d.]+) │ +[\d.]+-[\d.]+ │", shown, re.MULTILINE))
    assert means == {arm: "1.000" if arm in ("concise", "verify") else "0.000" for arm in ARMS} | {"all": "0.250"}
    assert (
        "generated 2,468 tokens in 2.0 s: 1,234 tokens/s (engine start 1.0 s, cold: graphs were compiled, 3 restarts)"
        in shown
    )
    assert shown.endswith(f"run directory: {plan.paths.root}\n")
    assert "suspect" not in shown


@pytest.mark.parametrize("columns", [40, 50, 80])
def test_a_narrow_terminal_keeps_the_names_of_arms_and_says_what_it_leaves_out(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_summary(summarize_run(write_run(tmp_path / "run").root))
    shown = capsys.readouterr().out
    tables = [line for line in shown.splitlines() if line[:1] in "│┃┏┡└"]
    assert max(map(len, tables)) <= columns
    assert all(shown.count(f"│ {arm} ") == 2 for arm in ARMS)
    assert "…" not in "".join(tables)
    assert "ended too, as does the report" in shown


def test_it_shows_over_how_many_groups_and_why_rows_have_no_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8), shard_size=4), tmp_path)
    write_run(plan.paths.root, shards=2, questions_per_shard=4, samples=2)
    failed = pl.int_range(pl.len()) < 3  # both samples of a group, and one of the next
    publish_shard(
        pl.read_parquet(plan.paths.scores(0)).with_columns(
            reward=pl.when(~failed).then("reward"),
            extraction_method=pl.when(failed).then(pl.lit("failed: KeyError: 'x'")).otherwise("extraction_method"),
        ),
        plan.paths.scores(0),
    )
    publish_json(plan.to_json(), plan.paths.config)
    report = summarize_run(plan.paths.root)
    print_summary(report)

    shown = capsys.readouterr().out
    assert (report.num_errors, report.num_unscored) == (0, 3)
    assert "62 of 64" in shown
    assert "8 of 8" in shown
    assert "error rows: 0; others without a reward: 3" in shown
    assert "3 x no reward: failed: KeyError: 'x'" in shown


def test_it_shows_the_mean_reward_without_suspect_golds_where_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8), shard_size=4), tmp_path)
    write_run(plan.paths.root, shards=2, questions_per_shard=4, accuracy=1.0)
    is_suspect = pl.col("rollout_id").is_in(
        pl.read_parquet(plan.paths.rollouts(0)).filter(pl.col("example_id") == "q0000001")["rollout_id"].to_list()
    )
    scores = pl.read_parquet(plan.paths.scores(0))
    publish_shard(
        scores.with_columns(
            gold_suspect=is_suspect, reward=pl.when(is_suspect).then(0.0).otherwise("reward").cast(pl.Float32)
        ),
        plan.paths.scores(0),
    )

    publish_json(plan.to_json(), plan.paths.config)
    report = summarize_run(plan.paths.root)
    print_summary(report)

    assert (report.gold_suspects, report.mean_reward, report.mean_reward_without_suspects) == (1, 7 / 8, 1.0)
    assert "mean reward without suspect ground truths (questions: 1): 1.000" in capsys.readouterr().out


def test_many_runs_are_a_row_each_and_a_few_have_their_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8), shard_size=4), tmp_path)
    write_run(plan.paths.root, shards=2, questions_per_shard=4)
    publish_json(plan.to_json(), plan.paths.config)
    report = summarize_run(plan.paths.root)
    runs = [replace(report, run_id=f"step-{step}", warnings=(f"told of {step}",)) for step in range(20)]
    print_summaries(runs)
    lines = capsys.readouterr().out.splitlines()
    assert [sum(f" step-{step} " in line for line in lines) for step in range(20)] == [1] * 20
    assert "warning: step-19: told of 19" in lines
    assert len(lines) < 50
    print_summaries(runs[:2])
    shown = capsys.readouterr().out
    assert "step-0: 8 questions x 8 arms: 64 rollouts" in shown
    assert shown.count("concise") >= 2
