"""Prints a run's report on the terminal."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.terminal import print_line
from tasks.node.engine_caches import START_WORDS
from tasks.plain_text import one_line
from tasks.records import RunPaths
from tasks.results.arm_contrasts import ArmContrast
from tasks.results.expectation_view import outcome_line
from tasks.results.metrics import ArmMetrics
from tasks.results.run_report import RunReport

_MAX_ERROR_CHARS = 2_000
_MAX_SUMMARIES = 3
_ARM_WIDTH = 32
_MEANINGS = {
    "of groups": "pass@k and maj@k are over the groups with as many scored samples as most groups have, in the first "
    "wave where a rule stops groups; no number when these are fewer than half",
    "gap": "share with the right last number, minus share that the scorer calls right",
    "ended": "mean tokens of completions that were not truncated",
}
RUNS_DIR = Path("runs")
"""Where runs are by default, so that commands need not be told."""


def print_summaries(reports: Sequence[RunReport]) -> None:
    """Print the summary of each of a few runs; of more, one table with a row for each."""
    if len(reports) > _MAX_SUMMARIES:
        _print_table(reports)
    else:
        for report in reports:
            print_summary(report, named=len(reports) > 1)
    print_next(reports)


def print_next(reports: Sequence[RunReport]) -> None:
    """Print where the runs are to be seen, and two commands that go on from them."""
    first = Path(reports[0].run_dir)
    runs_dir = "" if first.parent == RUNS_DIR else f" {shlex.quote(str(first.parent))}"
    names = [report.run_id if not runs_dir else shlex.quote(report.run_dir) for report in (reports[0], reports[-1])]
    if len(reports) == 1:
        print_line(f"report: {RunPaths(root=first).report_html}")
    then = f"harvest show {names[0]} --wrong --limit 3" if len(reports) == 1 else f"harvest diff {' '.join(names)}"
    print_line(f"next: harvest view{runs_dir}")
    print_line(f"      {then}")


def _print_table(reports: Sequence[RunReport]) -> None:
    from rich.table import Table

    from flows.console import console

    shown = console()
    table = Table(title=f"{len(reports)} runs")
    table.add_column("run", overflow="fold")
    for name in ("rollouts", "errors", "mean reward", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        _, mean, interval, *_ = _row(report.all_arms[-1])
        table.add_row(report.run_id, f"{report.num_rollouts:,}", f"{report.num_errors:,}", mean, interval)
    shown.print(table)
    for report in reports:
        for told in report.warnings:
            shown.print(f"warning: {report.run_id}: {one_line(told, _MAX_ERROR_CHARS)}", soft_wrap=True)
    shown.print(f"each run has its arms in its report.html, below {Path(reports[0].run_dir).parent}", soft_wrap=True)


def print_summary(report: RunReport, *, named: bool = False) -> None:
    """Print the per-arm table and the run's figures to standard output. ``named``: with the run's id above them."""
    from rich.table import Table

    from flows.console import PlainConsole

    console = PlainConsole(soft_wrap=True)
    name = f"{report.run_id}: " if named else ""
    table = Table(
        title=f"{name}{report.num_questions:,} questions x {len(report.arms)} arms: {report.num_rollouts:,} rollouts"
    )
    table.add_column("arm", overflow="fold", max_width=_ARM_WIDTH)
    for name in ("mean reward", "95% interval", "truncated", "unread", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in report.arms:
        table.add_row(*_row(arm))
    table.add_section()
    table.add_row(*_row(report.all_arms[-1]))
    _print_fitting(console, table)
    if suspects := report.gold_suspects:
        mean = _number(report.mean_reward_without_suspects, 3)
        console.print(f"mean reward without suspect ground truths (questions: {suspects}): {mean}")
    _print_sampling(console, report)
    _print_stopping(console, report)
    _print_contrasts(console, report.contrasts)
    generation = report.generation
    speed = generation.tokens_per_second
    if speed is not None:
        start = "" if generation.start_kind is None else f", {START_WORDS[generation.start_kind]}"
        console.print(
            f"generated {generation.tokens:,} tokens in {generation.seconds:.1f} s: {speed:,.0f} tokens/s "
            f"(engine start {generation.start_seconds:.1f} s{start}, {generation.restarts} restarts)"
        )
    if report.outcome is not None:
        console.print(outcome_line(report.outcome))
    if shared := {run_id for session in generation.sessions for run_id in session.shared_with}:
        console.print(f"the engines were shared with {_names(sorted(shared))}; the tokens and seconds are this run's")
    if report.errors:
        console.print(
            f"rollouts that are error rows: {report.num_errors:,}; others without a reward: {report.num_unscored:,}"
        )
        for row in report.errors:
            console.print(f"  {row.count} x {one_line(row.error, _MAX_ERROR_CHARS)}")
    if report.oom_ladder:
        console.print(f"out of memory {len(report.oom_ladder)} times; rollouts per rung: {report.rollouts_per_rung}")
    if report.equivalence:
        console.print(f"equivalence: {report.equivalence.verdict}: {report.equivalence.reason}")
    for told in report.warnings:
        console.print(f"warning: {one_line(told, _MAX_ERROR_CHARS)}")
    console.print(f"run directory: {report.run_dir}")


def _print_sampling(console: Any, report: RunReport) -> None:
    """Print pass@k, majority vote and the other figures about sampling and answer form, per arm and overall."""
    from rich.table import Table

    table = Table()
    table.add_column("arm", overflow="fold", max_width=_ARM_WIDTH)
    most = max((item.k for item in report.overall.pass_at_k), default=1)
    ks = sorted({1, most})
    for name in (*(f"pass@{k}" for k in ks), "maj@k", "of groups", "zero var.", "gap", "repeats", "ended"):
        table.add_column(name, justify="right", no_wrap=True)
    groups = [arm.questions for arm in report.arms]
    for arm, all_groups in zip(report.all_arms, [*groups, sum(groups)], strict=True):
        passes = {item.k: item.value for item in arm.pass_at_k}
        over = "/".join(f"{count:,}" for count in sorted({item.groups for item in arm.pass_at_k})) or "0"
        table.add_row(
            arm.arm_id,
            *(_number(passes.get(k), 3) for k in ks),
            _number(arm.maj_at_k, 3),
            f"{over} of {all_groups:,}",
            _percent(arm.zero_variance_share),
            _number(arm.strict_flexible_gap, 3),
            _percent(arm.repetition_rate),
            _number(arm.mean_completion_tokens_terminated, 1),
        )
    left_out = _print_fitting(console, table)
    for column, meaning in _MEANINGS.items():
        if column not in left_out:
            console.print(f"{column}: {meaning}")


def _print_fitting(console: Any, table: Any) -> list[str]:
    """Print ``table`` without the columns for which the terminal is too narrow, and return their names."""
    from flows.console import leave_out_columns

    left_out = leave_out_columns(table, console)
    console.print(table)
    if left_out:
        console.print(f"a wider terminal shows {', '.join(left_out)} too, as does the report")
    return left_out


def _print_stopping(console: Any, report: RunReport) -> None:
    stopping = report.stopping
    if stopping is None:
        return
    shares = ", ".join(f"{_percent(each.share)} by {one_line(each.reason, 120)}" for each in stopping.stopped_by)
    console.print(
        f"sampled until {one_line(stopping.rule, 200)}: {stopping.samples:,} of {stopping.most_samples:,} samples, "
        f"{_percent(stopping.saved_share)} of the tokens saved{f'; groups stopped {shares}' if shares else ''}"
    )


def _print_contrasts(console: Any, contrasts: Sequence[ArmContrast]) -> None:
    real = [item for item in contrasts if item.is_significant]
    console.print(f"{len(real)} of {len(contrasts)} differences between arms are beyond chance (Holm, p < 0.05)")
    for item in sorted(real, key=lambda item: -abs(item.mean_difference))[:5]:
        console.print(
            f"  {item.arm_id} - {item.other_arm_id}: {item.mean_difference:+.3f} "
            f"({_number(item.low, 3)} to {_number(item.high, 3)}), p = {item.p_holm:.2g}"
        )


def _row(arm: ArmMetrics) -> tuple[str, ...]:
    interval = arm.mean_reward_interval
    return (
        str(arm.arm_id),
        _number(arm.mean_reward, 3),
        "-" if interval is None else f"{interval.low:.3f}-{interval.high:.3f}",
        _percent(arm.truncation_rate),
        _percent(arm.extraction_failure_rate),
        _number(arm.mean_completion_tokens, 1),
    )


def _names(run_ids: Sequence[str]) -> str:
    return f"{len(run_ids)} other runs" if len(run_ids) > _MAX_SUMMARIES else ", ".join(run_ids)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
