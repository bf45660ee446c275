"""The progress line at the start, in the middle and after a resume."""

import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from flows.reporting.progress import Progress, ProgressDisplay


@dataclass(frozen=True, kw_only=True)
class Counted:
    rollouts_finished: int = 0
    rollouts_resumed: int = 0
    tokens_generated: int = 0
    first_admitted_at: float | None = None


ELAPSED = 1e6
"""Seconds since the first rollout was admitted."""


@pytest.mark.parametrize(
    ("done_before", "counts", "line"),
    [
        (0, {}, "0/502,000 rollouts · 0 tokens/s"),
        (1_000, {}, "1,000/502,000 rollouts · 0 tokens/s"),
        (0, {"tokens_generated": 250_000_000}, "0/502,000 rollouts · 250 tokens/s"),
        (
            500,
            {"rollouts_finished": 500_000, "rollouts_resumed": 500, "tokens_generated": 1_250_000_000},
            "501,000/502,000 rollouts · 1,250 tokens/s · ETA 33:20",
        ),
        (
            0,
            {"rollouts_finished": 100_000, "rollouts_resumed": 401_000},
            "501,000/502,000 rollouts · 0 tokens/s · ETA 2:46:40",
        ),
    ],
)
def test_the_line_shows_rollouts_speed_and_time_left(done_before: int, counts: dict[str, int], line: str) -> None:
    counters = Counted(first_admitted_at=0, **counts)
    progress = Progress(total=502_000, done_before=done_before, counters=counters, now=lambda: ELAPSED)
    assert progress.line() == line


@pytest.mark.parametrize("counters", [None, Counted()])
def test_before_the_first_rollout_there_is_no_speed(counters: Counted | None) -> None:
    assert Progress(total=8, counters=counters).line() == "0/8 rollouts · 0 tokens/s"


def test_the_mean_reward_is_of_the_rollouts_scored_so_far(tmp_path: Path) -> None:
    progress = Progress(total=8)
    shards: list[list[float | None]] = [[1.0, 0.0, None], [1.0]]
    for index, rewards in enumerate(shards):
        path = tmp_path / f"{index}.parquet"
        pl.DataFrame({"reward": rewards}, schema={"reward": pl.Float32}).write_parquet(path)
        progress.add_scores(path)
    assert progress.line() == "0/8 rollouts · 0 tokens/s · mean reward 0.667"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_rewritten_and_messages_above_it() -> None:
    terminal = Terminal()
    display = ProgressDisplay(Progress(total=8), terminal)
    display.refresh()
    display.print_line("started")
    display.refresh()
    display.close()
    clear, line = "\r\x1b[K", "0/8 rollouts · 0 tokens/s"
    assert terminal.getvalue() == f"{clear}{line}{clear}started\n{clear}{line}{clear}{line}\n"


def test_a_log_does_not_get_a_line_for_every_refresh() -> None:
    log = io.StringIO()
    display = ProgressDisplay(Progress(total=8), log)
    display.refresh()
    display.print_line("started")
    display.close()
    assert log.getvalue() == "started\n"


def test_text_of_others_does_not_drive_the_terminal() -> None:
    log = io.StringIO()
    ProgressDisplay(Progress(total=8), log).print_line("arm \x1b]52;c;aGk=\x07\u202e of two\nlines")
    assert log.getvalue() == "arm ␛]52;c;aGk=␇[RIGHT-TO-LEFT OVERRIDE] of two\nlines\n"
