"""collect_rollouts, the main flow: its body shows the stages of the pipeline in order."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import State, flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.live.display import enter_phase
from flows.parameters import BY_HAND_PARAMETERS, PARAMETERS, FlowParameters, chosen, run_config, takes
from flows.plan_collection import plan_collection
from flows.reporting.artifacts import report_preflight
from flows.reporting.flow_failures import explain_failures
from flows.reporting.flow_run_labels import flow_run_name, flow_run_tags, planned_flow_run_name
from flows.reporting.progress import log_and_print
from flows.reporting.reporter import Reporter
from flows.reporting.resolved_parameters import changed_parameters, resolve_parameters
from flows.reporting.run_tracking import RunTracking
from flows.reporting.tracker_targets import check_trackers
from flows.server.aws_credentials import load_credentials
from flows.server.transfer_retries import outage_seconds
from flows.shards import stages
from flows.shards.claimed_run import claimed
from flows.shards.finished_runs import finish_runs
from flows.shards.generation import generate_missing
from flows.shards.stage_order import StageOrder
from flows.shards.step_report import show_steps
from tasks.errors import HarvestError
from tasks.fleet.ray_address import check_nodes, on_nodes
from tasks.generation.rung_state import forget_rung
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.plan_here import plan_here
from tasks.node.preflight import PREFLIGHT_SECONDS, check_settings
from tasks.node.prompt_check import check_rendered, record_prompts
from tasks.plan.policies import AUTO_BASELINE
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.plan.waves import find_remaining
from tasks.results.collected import Collected
from tasks.results.damaged_files import set_aside_damaged
from tasks.results.expectation import expect
from tasks.results.expectation_view import run_lines
from tasks.results.finished_run import finished_report
from tasks.results.outcome import keep_expected
from tasks.results.run_report import RunReport
from tasks.time_limits import time_limit
from tasks.user_paths import check_directory, user_path

_collects = flow(
    name="collect-rollouts",
    flow_run_name=flow_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=256),  # type: ignore[arg-type]  # its type parameter cannot be inferred
    retries=1,
    retry_delay_seconds=60,
    persist_result=False,
    validate_parameters=True,
)


@_collects
@takes(tuple(PARAMETERS.values()))
def collect_rollouts(**given: Any) -> "State[dict[str, Any]]":
    """Collect rollouts: every question under every arm, generated, scored, validated, uploaded."""
    with explain_failures() as flow_run, Reporter() as reporter:
        resolved = resolve_parameters(given)
        asked = chosen(FlowParameters, resolved)
        enter_phase("plan")
        check_trackers(asked.log_to)
        outage_seconds()  # refuses a wrong value before anything is written
        config = run_config(resolved)
        plans = plan_collection(plan_here(config, user_path(asked.runs_dir)), asked)
        check_nodes(config, plans[0], asked.nodes, asked.ray, asked.baseline)
        reporter.describe_flow_run(
            name=planned_flow_run_name(*plans),
            tags=set().union(*map(flow_run_tags, plans)),
            parameters=changed_parameters(given, resolved),
        )
        if asked.aws_credentials_block is not None:
            load_credentials(asked.aws_credentials_block)  # refuses a wrong name before anything is written
        known = _finished(plans, asked) if asked.skip_finished or len(plans) > 1 else {}
        left = [plan for plan in plans if plan.run_id not in known]
        if not left:
            collected = flow_run.collected = Collected(reports=tuple(known.values()))
            show_steps(plans, reporter)
            return Completed(message=f"Nothing to do: {_subject(plans)} finished before", data=collected.to_json())
        for run_id in known:
            log_and_print(f"skipping {run_id}, which was finished before")
        check_settings(left[0])
        check_rendered(left[0])
        if asked.forget_oom_rung and (runtime.flow_run.run_count or 1) == 1:
            # engines begin where the first run that is left does
            for each in left:
                forget_rung(each)
        try:
            made = {report.run_id: report for report in _collect(left, asked, reporter).reports}
        except HarvestError:
            # one run that fails its comparison does not hide the rewards of the others
            with contextlib.suppress(HarvestError):
                show_steps([plan for plan in plans if plan.paths.report.is_file()], reporter)
            raise
        collected = flow_run.collected = Collected(reports=tuple((known | made)[plan.run_id] for plan in plans))
        show_steps(plans, reporter)
    return Completed(message=_outcome(collected), data=collected.to_json())


@_collects
@takes(BY_HAND_PARAMETERS)
def collect_by_hand(**given: Any) -> "State[dict[str, Any]]":
    """Collect rollouts, as ``collect_rollouts`` does, of a model that must be named."""
    return collect_rollouts.fn(**given)


def _finished(plans: Sequence[RunPlan], asked: FlowParameters) -> dict[str, RunReport]:
    """Return the reports of the finished runs, by run id."""
    required = asked.require if asked.baseline else None
    found = {plan.run_id: finished_report(plan, upload_url=asked.upload, require=required) for plan in plans}
    return {run_id: report for run_id, report in found.items() if report is not None}


def _collect(plans: Sequence[RunPlan], asked: FlowParameters, reporter: Reporter) -> Collected:
    baseline = asked.baseline
    plan = plans[0]
    with contextlib.ExitStack() as locks:
        for each in plans:
            check_directory(each.paths.state, "the run's directory")
        # in one order everywhere, so that two collections cannot wait for each other
        for each in sorted(plans, key=lambda one: one.run_id):
            locks.enter_context(claimed(each.paths))
        for each in plans:
            _open(each)
        for told in plan.choices:
            log_and_print(told)
        prompts = record_prompts(plan, *plans[1:])
        for told in (*plan.warnings, *prompts.problems, *prompts.warnings):
            log_and_print(f"warning: {told}")
        _tell_expected(plans, asked)
        tracking = locks.enter_context(RunTracking(plans, asked.log_to, log_and_print))
        order = StageOrder()
        shards = {each.run_id: _shards(each, order) for each in plans}
        if on_nodes(asked.nodes, asked.ray):
            baselines = _baselines(plans, baseline, order)
            try:
                generate_missing(plans, shards, asked, reporter, order, tracking)
            finally:
                report_preflight(reporter, plan.paths)
        else:
            with _gpus_if_needed(plans, shards, baseline) as has_gpus:
                if has_gpus:
                    enter_phase("preflight")
                    try:
                        limit = time_limit(PREFLIGHT_SECONDS)
                        preflight = stages.preflight.with_options(timeout_seconds=limit)
                        order.call(plans, preflight, plans, asked.upload)
                    finally:
                        report_preflight(reporter, plan.paths)
                baselines = _baselines(plans, baseline, order)
                generate_missing(plans, shards, asked, reporter, order, tracking)
        return finish_runs(plans, baselines, asked, reporter, order, on_report=tracking.finish)


def _open(plan: RunPlan) -> None:
    for told in set_aside_damaged(plan):
        log_and_print(f"warning: {told}")
    for pid in open_run(plan):
        get_run_logger().warning("ended process %d, left over from a killed run", pid)


def _tell_expected(plans: Sequence[RunPlan], asked: FlowParameters) -> None:
    expected = expect(plans, nodes=asked.nodes)
    if not expected.rollouts:
        return
    for told in run_lines(expected):
        log_and_print(told)
    if len(plans) == 1:
        keep_expected(plans[0].paths, tokens=expected.completion_tokens, seconds=expected.seconds)


def _shards(plan: RunPlan, order: StageOrder) -> list[Shard]:
    # copies: from what a task returned itself, Prefect's graph has an arrow to every task that is given it
    return [replace(shard) for shard in order.call([plan], stages.shard_dataset, plan)]


def _baselines(plans: Sequence[RunPlan], name: str | None, order: StageOrder) -> dict[str, Path]:
    return {plan.run_id: order.call([plan], stages.baseline, plan, name) for plan in plans} if name else {}


@contextlib.contextmanager
def _gpus_if_needed(
    plans: Sequence[RunPlan], shards: Mapping[str, list[Shard]], baseline: str | None
) -> Iterator[bool]:
    """Lock this node's GPUs and yield True; yield False without a lock when nothing is left to generate.

    Any machine can do the rest of a run, such as a comparison or an upload.
    """
    if baseline != AUTO_BASELINE and not any(find_remaining(plan, shards[plan.run_id]).to_generate for plan in plans):
        yield False
        return
    with lock_gpus(gpus_of_run(plans[0]), run_id=plans[0].run_id, on_wait=log_and_print):
        yield True


def _subject(plans: Sequence[RunPlan]) -> str:
    """Return the runs as the subject of a sentence, with its verb."""
    one = len(plans) == 1
    return f"run{'' if one else 's'} {', '.join(plan.run_id for plan in plans)} {'was' if one else 'were'}"


def _outcome(collected: Collected) -> str:
    return "; ".join(map(_outcome_of, collected.reports))


def _outcome_of(report: RunReport) -> str:
    mean = "no rewards" if report.mean_reward is None else f"mean reward {report.mean_reward:.3f}"
    return f"{report.num_rollouts:,} rollouts, {report.num_errors:,} errors, {mean}: {report.run_id}"
