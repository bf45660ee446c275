"""What a run with a stopping rule leaves: difficulty.parquet, and the rule's part of the report and of its page."""

from pathlib import Path

import polars as pl
import pytest

from tasks.records import RunPaths
from tasks.results.group_pass_rates import DIFFICULTY_SCHEMA, group_pass_rates, weigh
from tasks.results.report_page import publish_page
from tasks.results.run_report import RunReport, read_report
from tasks.results.stopping_report import arm_pass_rates, stopping_report
from tasks.results.summary import summarize_run
from tasks.storage.manifest import parse_manifest
from tasks.storage.run_files import damaged_files, problems_of_run, published_files, write_manifest
from tests.support.html_page import Page
from tests.support.stopped_rollouts import wave_plan, write_stopped_run
from tests.support.synthetic import write_run

DIFFICULTY = "questions/difficulty.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    accuracy = {"easy": 0.9, "hard": 0.1, "middle": 0.5}
    return write_stopped_run(
        tmp_path_factory.mktemp("runs") / "run",
        "mixed",
        questions_per_shard=40,
        arms=list(accuracy),
        accuracy=accuracy,
        error_rows=0.02,
    )


@pytest.fixture(scope="module")
def report(run: RunPaths) -> RunReport:
    return summarize_run(run.root)


def test_every_group_is_in_a_published_file(run: RunPaths, report: RunReport) -> None:
    groups = pl.read_parquet(run.root / DIFFICULTY)
    assert groups.schema == DIFFICULTY_SCHEMA
    assert groups.height == 240
    assert groups.select(pl.col("n", "unscored").sum()).row(0) == (
        report.num_rollouts - report.num_errors,
        report.num_errors,
    )
    # its mean is the mean reward, as the rewards of this scorer are 0 and 1
    assert report.mean_reward == pytest.approx(groups["estimate"].mean())
    assert DIFFICULTY in published_files(run.root)
    write_manifest(run.root)
    assert DIFFICULTY in [file.path for file in parse_manifest(run.manifest.read_bytes()).files]
    assert problems_of_run(run.root) == []


def test_the_report_says_what_the_rule_did(run: RunPaths, report: RunReport) -> None:
    assert read_report(run.root) == report
    stopping, groups = report.stopping, pl.read_parquet(run.root / DIFFICULTY)
    assert stopping is not None
    assert (stopping.rule, stopping.samples, stopping.most_samples) == ("mixed", report.num_rollouts, 240 * 8)
    assert {each.reason: each.groups for each in stopping.stopped_by} == dict(
        groups["stopped_by"].value_counts().iter_rows()
    )
    assert sum(each.share for each in stopping.stopped_by) == pytest.approx(1)
    # all completions have 16 tokens, but for error rows
    assert stopping.most_tokens == pytest.approx(240 * 8 * 16, rel=0.03)
    assert stopping.saved_share == pytest.approx(1 - report.num_rollouts / stopping.most_samples, abs=0.03)
    assert stopping.saved_gpu_seconds is None


@pytest.mark.parametrize(
    ("rewards", "saved"),
    # in waves of two until mixed: the first sample of seven right and one wrong was right, so that wrong ones weigh 0
    [([1.0, 0.0], 900.0), ([1.0] * 7 + [0.0], 0.0), ([1.0] * 8, 0.0)],
)
def test_what_one_group_saved_is_never_below_nothing(rewards: list[float], saved: float) -> None:
    plan = wave_plan("mixed", first=2, size=2, most=8)
    rows = pl.DataFrame({"sample_index": range(len(rewards)), "reward": rewards}).with_columns(
        example_id=pl.lit("q"), arm_id=pl.lit("a"), num_completion_tokens=200 - 100 * pl.col("reward").cast(pl.Int32)
    )
    report = stopping_report(weigh(rows, plan, 1.0), group_pass_rates(rows, plan, 1.0), plan, 0.5)
    assert report is not None
    assert (report.most_tokens - report.tokens, report.saved_gpu_seconds) == (saved, saved / 2)
    assert report.saved_share == pytest.approx(saved / (saved + report.tokens))


def test_the_page_shows_pass_rates_and_the_rule(run: RunPaths, report: RunReport) -> None:
    page = Page(publish_page(run.root).read_text())
    for words in ("sampled until mixed", "stopped by mixed", "stopped by max", "tokens saved"):
        assert words in page.words, words
    hard = next(each for each in report.pass_rates if each.arm_id == "hard")
    assert f"hard {hard.never:,} never and {hard.always:,} always right" in page.words


def test_pass_rates_are_counted_by_tenths() -> None:
    counts = [(10, 0), (10, 1), (10, 2), (3, 1), (10, 9), (20, 19), (4, 4), (0, 0)]
    groups = pl.DataFrame(
        [(f"q{index}", "a", n, right) for index, (n, right) in enumerate(counts)],
        ["example_id", "arm_id", "n", "right"],
        orient="row",
    )
    (arm,) = arm_pass_rates(groups)
    assert (arm.never, arm.tenths, arm.always) == (1, (1, 1, 0, 1, 0, 0, 0, 0, 1, 1), 1)
    assert arm_pass_rates(groups.with_columns(n=1)) == ()


def test_a_run_of_single_samples_has_no_histogram(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1, arms=2)
    report = summarize_run(run.root)
    assert (report.pass_rates, report.stopping) == ((), None)
    assert {*pl.read_parquet(run.root / DIFFICULTY)["stopped_by"]} == {"fixed"}
    (run.root / DIFFICULTY).write_bytes(b"PAR1")
    assert [*damaged_files(run.root)] == [DIFFICULTY]
