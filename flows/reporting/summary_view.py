"""A run's report on the terminal."""

from typing import Any

from tasks.plain_text import one_line, visible

_MOST_ERROR_CHARS = 2_000


def print_summary(report: dict[str, Any]) -> None:
    """Print the per-arm table and the run's figures to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table(
        title=f"{report['num_questions']:,} questions x {len(report['arms'])} arms: {report['num_rollouts']:,} rollouts"
    )
    table.add_column("arm")
    for name in ("mean reward", "95% interval", "truncated", "unread", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in report["arms"]:
        table.add_row(*_row(arm["arm_id"], arm))
    table.add_section()
    table.add_row(*_row("all", report["overall"]))
    console.print(table)
    if suspects := report["gold_suspects"]:
        mean = _number(report["mean_reward_without_suspects"], 3)
        console.print(f"mean reward without suspect ground truths (questions: {suspects}): {mean}")
    _print_sampling(console, report)
    _print_contrasts(console, report["contrasts"])
    generation = report["generation"]
    speed = generation["tokens_per_second"]
    if speed is not None:
        console.print(
            f"generated {generation['tokens']:,} tokens in {generation['seconds']:.1f} s: {speed:,.0f} tokens/s "
            f"(engine start {generation['start_seconds']:.1f} s, {generation['restarts']} restarts)"
        )
    if report["num_errors"]:
        console.print(f"{report['num_errors']} rollouts are error rows:")
        for row in report["errors"]:
            console.print(f"  {row['count']} x {one_line(row['error'], _MOST_ERROR_CHARS)}", markup=False)
    if report["oom_ladder"]:
        console.print(
            f"out of memory {len(report['oom_ladder'])} times; rollouts per rung: {report['rollouts_per_rung']}"
        )
    if report["equivalence"]:
        console.print(
            f"equivalence: {visible(report['equivalence']['verdict'])}: {visible(report['equivalence']['reason'])}",
            markup=False,
        )
    console.print(f"run directory: {report['run_dir']}", markup=False)


def _print_sampling(console: Any, report: dict[str, Any]) -> None:
    """What several samples and the form of the answers show, per arm and overall."""
    from rich.table import Table

    table = Table()
    table.add_column("arm")
    most = max((item["k"] for item in report["overall"]["pass_at_k"]), default=1)
    ks = sorted({1, most})
    for name in (*(f"pass@{k}" for k in ks), "maj@k", "zero var.", "gap", "repeats", "ended"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, metrics in [*((arm["arm_id"], arm) for arm in report["arms"]), ("all", report["overall"])]:
        passes = {item["k"]: item["value"] for item in metrics["pass_at_k"]}
        table.add_row(
            name,
            *(_number(passes.get(k), 3) for k in ks),
            _number(metrics["maj_at_k"], 3),
            _percent(metrics["zero_variance_share"]),
            _number(metrics["strict_flexible_gap"], 3),
            _percent(metrics["repetition_rate"]),
            _number(metrics["mean_completion_tokens_terminated"], 1),
        )
    console.print(table)
    console.print("gap: right by the last number minus right by the rule; ended: mean tokens of what was not truncated")


def _print_contrasts(console: Any, contrasts: list[dict[str, Any]]) -> None:
    real = [item for item in contrasts if item["p_holm"] < 0.05]
    console.print(f"{len(real)} of {len(contrasts)} differences between arms are beyond chance (Holm, p < 0.05)")
    for item in sorted(real, key=lambda item: -abs(item["mean_difference"]))[:5]:
        console.print(
            f"  {item['arm_id']} - {item['other_arm_id']}: {item['mean_difference']:+.3f} "
            f"({_number(item['low'], 3)} to {_number(item['high'], 3)}), p = {item['p_holm']:.2g}",
            markup=False,
        )


def _row(name: str, metrics: dict[str, Any]) -> tuple[str, ...]:
    interval = metrics["mean_reward_interval"]
    return (
        name,
        _number(metrics["mean_reward"], 3),
        "-" if interval is None else f"{interval['low']:.3f}-{interval['high']:.3f}",
        _percent(metrics["truncation_rate"]),
        _percent(metrics["extraction_failure_rate"]),
        _number(metrics["mean_completion_tokens"], 1),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
