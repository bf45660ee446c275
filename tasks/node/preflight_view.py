"""Renders the preflight report and the capacity plan for a console that takes strings literally: flows.console."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from tasks.node.advice import Advice
from tasks.node.check_result import CheckResult
from tasks.node.memory_plan import MemoryPlan
from tasks.node.preflight_report import PreflightReport
from tasks.units import GIB

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLE = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def render_preflight(report: PreflightReport) -> "RenderableType":
    """A table of the checks, then the memory plan if there is one.

    GPUs with the same outcome share a row. A remedy stands below its check.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "GPU", "found", "limit"):
        table.add_column(column, overflow="fold")
    for check, gpus in _grouped(report.checks):
        style = _STYLE[check.status]
        table.add_row(
            Text(check.status, style),
            check.name,
            gpus,
            check.value,
            check.limit,
            end_section=not check.remedy,
        )
        if check.remedy:
            table.add_row("", "", "", Text(f"-> {check.remedy}", style), "")
    counts = {status: sum(check.status == status for check in report.checks) for status in _STYLE}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    plan = [] if report.plan is None else [Text(), _plan_table(report.plan), Text()]
    return Group(table, *plan, Text(f"preflight: {report.worst} ({summary})", _STYLE[report.worst]))


def render_plan(
    plan: MemoryPlan, advice: Sequence[Advice], warnings: Sequence[str] = (), expected: Sequence[str] = ()
) -> "RenderableType":
    """The plan's figures, the settings that cannot work, the unknown figures, the warnings, the advice, and what is
    ``expected`` of the run."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_plan_table(plan)]
    parts += [Text(problem, "bold red") for problem in plan.problems]
    parts += [Text(reason, "yellow") for reason in (*plan.doubts, *plan.unknown, *plan.not_counted)]
    parts += [Text(f"warning: {warning}", "yellow") for warning in warnings]
    for piece in advice:
        parts.append(Text(f"advice: {piece.suggestion}", "cyan"))
        parts.append(Text(f"  why: {piece.reason}\n  effect: {piece.effect}"))
    if not advice:
        parts.append(Text("advice: none, the settings suit this model and dataset", "dim"))
    parts += map(Text, expected)
    return Group(*parts)


def _plan_table(plan: MemoryPlan) -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, title=f"memory plan, profile {plan.profile}")
    for name, value in _figures(plan):
        table.add_row(name, value)
    return table


def _figures(plan: MemoryPlan) -> list[tuple[str, str]]:
    where = "per GPU" if plan.device == "cuda" else "of the host"
    mark = " (estimate)" if plan.is_estimate else ""
    rows = [
        (f"memory {where}", _gib(plan.device_bytes)),
        *_shared(plan),
        *_spread(plan),
        (f"weights {where}, {_parallel(plan)}", _gib(plan.weight_bytes)),
        ("activations, CUDA graphs, workspaces (estimate)", _gib(plan.reserve_bytes)),
        (f"KV cache{mark}", _gib(plan.kv_budget_bytes)),
        ("KV bytes per token", _number(plan.kv_bytes_per_token)),
        (f"KV tokens{mark}", _number(plan.kv_tokens)),
        (f"sequences of max_model_len {plan.max_model_len}", _number(plan.sequences_at_max_len)),
        (f"sequences of expected length {plan.expected_length}", _number(plan.sequences_at_expected)),
        ("question batch, in sequences", f"{plan.in_flight:,}, of which {plan.running:,} run at once"),
    ]
    if plan.auto is not None:
        rows += [
            ("questions in flight, chosen", f"{plan.auto.first_questions:,} at first, {plan.auto.questions:,} at most"),
            ("sequences in flight, chosen", plan.auto.reason),
        ]
    if plan.step_tokens is not None:
        rows.append(("tokens per step", f"{plan.step_tokens:,} at most; CUDA graphs for up to {plan.graph_tokens:,}"))
        rows.append(("steps in a CUDA graph (estimate)", f"{100 * (plan.expected_graph_share or 0):.0f}%"))
    if plan.core_process is not None:
        where = "in a process of its own" if plan.core_process else "in the replica's process"
        rows.append(("engine core", where))
    fits = {True: "yes", False: "no: sequences will be preempted", None: "cannot tell"}[plan.batch_fits]
    return [(name, value) for name, value in rows if value] + [("question batch fits", fits)]


def _parallel(plan: MemoryPlan) -> str:
    stages = f" x PP {plan.pipeline_parallel_size}" if plan.pipeline_parallel_size > 1 else ""
    return f"TP {plan.tensor_parallel_size}{stages}"


def _shared(plan: MemoryPlan) -> list[tuple[str, str]]:
    if plan.replicas_per_gpu == 1:
        return []
    beside = f"{_gib(plan.process_bytes)} beside it for each further one (estimate)"
    return [
        ("engines per GPU", f"{plan.replicas_per_gpu}; all that follows is of one engine"),
        ("memory of an engine", _gib(plan.engine_bytes) and f"{_gib(plan.engine_bytes)}, and {beside}"),
    ]


def _spread(plan: MemoryPlan) -> list[tuple[str, str]]:
    nodes = plan.nodes_per_replica
    if nodes == 1:
        return []
    gpus = plan.tensor_parallel_size * plan.pipeline_parallel_size // nodes
    return [("nodes per replica", f"{nodes} nodes of a Ray cluster, with {gpus} GPU{'s' if gpus > 1 else ''} of each")]


def _grouped(checks: Sequence[CheckResult]) -> list[tuple[CheckResult, str]]:
    """(check, GPUs) in the order of the checks' first appearance; GPUs with equal outcomes are merged."""
    order = {check.name: position for position, check in reversed(list(enumerate(checks)))}

    def key(check: CheckResult) -> tuple[int, str, str, str, str]:
        return order[check.name], check.status, check.value, check.limit, check.remedy

    grouped = []
    for _, group in groupby(sorted(checks, key=key), key=key):
        members = list(group)
        grouped.append((members[0], _ranges([check.gpu for check in members if check.gpu is not None])))
    return grouped


def _ranges(indices: Sequence[int]) -> str:
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1][1:] = [index]
        else:
            ranges.append([index])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def _gib(value: int | None) -> str:
    if value is None:
        return ""
    return f"{value / GIB:.2f} GiB" if value >= GIB else f"{value / 2**20:.1f} MiB"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
