"""The numbers at the top of the report page: what a run came to, at a glance."""

from dataclasses import dataclass

from tasks.plain_text import clock
from tasks.results.metrics import ArmMetrics
from tasks.results.run_report import RunReport


@dataclass(frozen=True, kw_only=True)
class Card:
    """A number with its unit, and what must be known of it."""

    name: str
    value: str
    note: str


def cards_of(report: RunReport) -> tuple[Card, ...]:
    """Return the cards in the order of the page; a number that the run does not have is "–"."""
    return (
        _reward(report.overall),
        _speed(report),
        _share("truncated", report.overall.truncation_rate, "cut off by max_tokens"),
        _zero_variance(report.overall),
        _duration(report),
        _cost(report),
    )


def in_words(seconds: float) -> str:
    """Return a duration with its unit: "12.3 s", "4:05 min" or "1:02:03 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{clock(seconds)} {'h' if round(seconds) >= 3600 else 'min'}"


def _reward(overall: ArmMetrics) -> Card:
    interval = overall.mean_reward_interval
    note = f"{interval.low:.3f} to {interval.high:.3f}, 95% interval" if interval else "too few questions to say more"
    return _number("mean reward", overall.mean_reward, ".3f", note)


def _speed(report: RunReport) -> Card:
    speed = report.generation.tokens_per_second or (report.telemetry.tokens_per_s if report.telemetry else None)
    return _number("tokens/s", speed, ",.0f", "while generating")


def _zero_variance(overall: ArmMetrics) -> Card:
    share = overall.zero_variance_share
    note = "of the groups: all rewards equal, no signal" if share is not None else "one sample per group"
    return _share("zero variance", share, note)


def _duration(report: RunReport) -> Card:
    generation, telemetry = report.generation, report.telemetry
    seconds = telemetry.elapsed_s if telemetry and telemetry.elapsed_s else None
    if seconds is None and generation.sessions:
        seconds = generation.seconds
    sessions = len(generation.sessions)
    note = "engine starts included" if telemetry else "of generating"
    if report.outcome and report.outcome.expected_seconds is not None and sessions == 1:
        note += f", {in_words(report.outcome.expected_seconds)} expected"
    return Card(
        name="duration",
        value="–" if seconds is None else in_words(seconds),
        note=note if sessions < 2 else f"{note}, in {sessions} sessions",
    )


def _cost(report: RunReport) -> Card:
    telemetry = report.telemetry
    if telemetry is None or telemetry.gpu_seconds is None:
        return Card(name="cost", value="–", note="no GPU was recorded")
    hours = f"{telemetry.gpu_seconds / 3600:,.2f} GPU hours"
    if telemetry.cost_usd is None:
        return Card(name="cost", value=hours, note="the profile has no price (gpu_hour_usd)")
    return Card(name="cost", value=f"${telemetry.cost_usd:,.2f}", note=hours)


def _share(name: str, value: float | None, note: str) -> Card:
    return _number(name, value, ".1%", note)


def _number(name: str, value: float | None, form: str, note: str) -> Card:
    return Card(name=name, value="–" if value is None else format(value, form), note=note)
