"""Two runs beside each other: their numbers, arms, the rollouts that flipped, and the settings that differ."""

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError
from tasks.results.finished_run import read_config
from tasks.results.page_cards import Card, cards_of
from tasks.results.report_page import settings_of
from tasks.results.run_diff import RunDiff, diff_runs
from tasks.results.run_report import RunReport, read_report
from tasks.results.scored_rollouts import check_scored
from tasks.results.summary import build_report

EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class ComparedArm:
    """An arm of either run; a value is None where the run does not have the arm, or no reward of it."""

    arm_id: str
    first: float | None
    second: float | None
    lost: int | None
    """Rollouts that are right only in the first run; None when the runs share none."""
    won: int | None
    """Rollouts that are right only in the second run; None when the runs share none."""

    @property
    def difference(self) -> float | None:
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two finished runs."""

    first: str
    second: str
    cards: tuple[tuple[Card, Card], ...]
    arms: tuple[ComparedArm, ...]
    diff: RunDiff | None
    """None when the runs share no scored rollout."""
    reason: str
    """Why they share none."""
    settings: tuple[tuple[str, str, str], ...]
    """Name, and value in each run, of the settings that differ."""


def compare_runs(first: Path, second: Path) -> RunComparison:
    """Return the comparison of two runs. Raises ConfigError when one is not finished and scored, or DamagedFile."""
    for run_dir in (first, second):
        check_scored(run_dir)
    reports = [read_report(run_dir) or build_report(run_dir) for run_dir in (first, second)]
    diff, reason = None, ""
    try:
        diff = diff_runs(first, second, most=EXAMPLES)
    except ConfigError as error:
        reason = str(error)
    settings = [dict(settings_of(read_config(run_dir))) for run_dir in (first, second)]
    return RunComparison(
        first=first.name,
        second=second.name,
        cards=tuple(zip(cards_of(reports[0]), cards_of(reports[1]), strict=True)),
        arms=tuple(_arms(reports[0], reports[1], diff)),
        diff=diff,
        reason=reason,
        settings=tuple(
            (name, settings[0].get(name, "–"), settings[1].get(name, "–"))
            for name in dict.fromkeys([*settings[0], *settings[1]])
            if settings[0].get(name) != settings[1].get(name)
        ),
    )


def _arms(first: RunReport, second: RunReport, diff: RunDiff | None) -> list[ComparedArm]:
    means = [{str(arm.arm_id): arm.mean_reward for arm in report.arms} for report in (first, second)]
    flips = {arm.arm_id: arm for arm in diff.arms} if diff else {}
    return [
        ComparedArm(
            arm_id=arm,
            first=means[0].get(arm),
            second=means[1].get(arm),
            lost=flips[arm].lost if arm in flips else None,
            won=flips[arm].won if arm in flips else None,
        )
        for arm in dict.fromkeys([*means[0], *means[1]])
    ]
