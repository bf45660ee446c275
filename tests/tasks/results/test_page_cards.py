"""The cards say what the report says, and a dash where it says nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.results.outcome import Outcome
from tasks.results.page_cards import cards_of, in_words
from tasks.results.run_report import RunReport, read_report
from tests.support.report_run import write_report_run
from tests.support.synthetic import write_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    run = write_report_run(tmp_path_factory.mktemp("runs") / "run", arms=2, samples=2)
    found = read_report(run.root)
    assert found is not None
    return found


def test_a_run_on_gpus_with_a_price(report: RunReport) -> None:
    assert report.telemetry is not None
    assert report.overall.mean_reward_interval is not None
    interval = report.overall.mean_reward_interval
    priced = replace(report, telemetry=replace(report.telemetry, gpu_seconds=7_200.0, cost_usd=4.5, elapsed_s=3_600.0))
    assert [(card.name, card.value, card.note) for card in cards_of(priced)] == [
        (
            "mean reward",
            f"{report.mean_reward:.3f}",
            f"{interval.low:.3f} to {interval.high:.3f}, 95% interval",
        ),
        ("tokens/s", "833", "while generating"),
        ("truncated", f"{report.overall.truncation_rate:.1%}", "cut off by max_tokens"),
        (
            "zero variance",
            f"{report.overall.zero_variance_share:.1%}",
            "of the groups: all rewards equal, no signal",
        ),
        ("duration", "1:00:00 h", "engine starts included"),
        ("cost", "$4.50", "2.00 GPU hours"),
    ]


def test_the_duration_has_beside_it_what_was_expected(report: RunReport) -> None:
    outcome = Outcome(expected_tokens=100, tokens=120, expected_seconds=75.0, seconds=80.0)
    cards = {card.name: card.note for card in cards_of(replace(report, outcome=outcome))}
    assert cards["duration"] == "engine starts included, 1:15 min expected"


def test_a_run_without_a_price(report: RunReport) -> None:
    assert report.telemetry is not None
    free = replace(report, telemetry=replace(report.telemetry, gpu_seconds=1_800.0, cost_usd=None))
    assert (cards_of(free)[-1].value, cards_of(free)[-1].note) == (
        "0.50 GPU hours",
        "the profile has no price (gpu_hour_usd)",
    )


def test_a_run_that_recorded_nothing_and_scored_nothing(tmp_path: Path) -> None:
    from tasks.results.summary import build_report

    run = write_run(tmp_path / "run", shards=1, questions_per_shard=1, arms=1, error_rows=1.0)
    assert {card.name: card.value for card in cards_of(build_report(run.root))} == {
        "mean reward": "–",
        "tokens/s": "–",
        "truncated": "–",
        "zero variance": "–",
        "duration": "–",
        "cost": "–",
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1:00 min"),
        (245, "4:05 min"),
        (3_599.6, "1:00:00 h"),
        (7_322, "2:02:02 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
