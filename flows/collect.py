"""collect_rollouts, the main flow: its body shows the stages of the pipeline in order."""

import contextlib
from collections.abc import Iterator
from typing import Any

from prefect import State, flow
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import PARAMETERS, FlowParameters, chosen, run_config, takes
from flows.reporting.artifacts import report_equivalence, report_preflight, report_run, report_upload
from flows.reporting.flow_failures import explain_failures
from flows.reporting.flow_run_labels import flow_run_name, flow_run_tags, planned_flow_run_name
from flows.reporting.progress import log_and_print
from flows.reporting.reporter import Reporter
from flows.reporting.resolved_parameters import changed_parameters, resolve_parameters
from flows.server.aws_credentials import load_credentials
from flows.server.transfer_retries import outage_seconds
from flows.shards import stages
from flows.shards.fan_out import check_fan_out, close_shared, fetch_finished, generate_on_nodes
from flows.shards.local_generation import generate_locally
from tasks.comparison.baseline import AUTO
from tasks.locks import run_lock
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.plan_here import check_profile_of_nodes, plan_here
from tasks.node.preflight import check_settings
from tasks.node.prompt_check import check_rendered, record_prompts
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, find_remaining
from tasks.results.damaged_files import set_aside_damaged
from tasks.results.finished_run import finished_report
from tasks.results.run_report import RunReport
from tasks.storage.run_files import write_manifest
from tasks.time_limits import time_limit
from tasks.user_paths import check_directory, user_path


@flow(
    name="collect-rollouts",
    flow_run_name=flow_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=64),  # type: ignore[arg-type]  # its type parameter cannot be inferred
    retries=1,
    retry_delay_seconds=60,
    persist_result=False,
    validate_parameters=True,
)
@takes(tuple(PARAMETERS.values()))
def collect_rollouts(**given: Any) -> "State[dict[str, Any]]":
    """Collect rollouts: every question under every arm, generated, scored, validated, uploaded."""
    with explain_failures() as flow_run, Reporter() as reporter:
        resolved = resolve_parameters(given)
        asked = chosen(FlowParameters, resolved)
        check_fan_out(asked.nodes, asked.shared, asked.baseline)
        outage_seconds()  # refuses a wrong value before anything is written
        config = run_config(resolved)
        plan = plan_here(config, user_path(asked.runs_dir))
        if asked.nodes > 1:
            check_profile_of_nodes(config, plan)
        reporter.describe_flow_run(
            name=planned_flow_run_name(plan), tags=flow_run_tags(plan), parameters=changed_parameters(given, resolved)
        )
        if asked.aws_credentials_block is not None:
            load_credentials(asked.aws_credentials_block)  # refuses a wrong name before anything is written
        required = asked.require if asked.baseline else None
        if asked.skip_finished and (known := finished_report(plan, upload_url=asked.upload, require=required)):
            flow_run.report = known
            return Completed(message=f"Nothing to do: run {plan.run_id} was finished before", data=known.to_json())
        check_settings(plan)
        check_rendered(plan)
        report = flow_run.report = _collect(plan, asked, reporter)
    return Completed(message=_outcome(report), data=report.to_json())


def _collect(plan: RunPlan, asked: FlowParameters, reporter: Reporter) -> RunReport:
    baseline, shared, upload = asked.baseline, asked.shared, asked.upload
    check_directory(plan.paths.state, "the run's directory")
    with run_lock(plan.paths.state / "lock"):
        for told in set_aside_damaged(plan):
            log_and_print(f"warning: {told}")
        for pid in open_run(plan):
            get_run_logger().warning("ended process %d, left over from a killed run", pid)
        prompts = record_prompts(plan)
        for told in plan.choices:
            log_and_print(told)
        for told in (*plan.warnings, *prompts.problems, *prompts.warnings):
            log_and_print(f"warning: {told}")
        shards = stages.shard_dataset(plan)
        if shared is not None and asked.nodes > 1:
            baseline_dir = stages.baseline(plan, baseline) if baseline else None
            generate_on_nodes(plan, shards, upload, reporter, nodes=asked.nodes, shared=shared)
        else:
            if shared is not None:
                fetch_finished(plan, shards, shared)
            with _gpus_if_needed(plan, shards, baseline) as has_gpus:
                if has_gpus:
                    try:
                        limit = time_limit(stages.PREFLIGHT_SECONDS)
                        stages.preflight.with_options(timeout_seconds=limit)(plan, upload)
                    finally:
                        report_preflight(reporter, plan.paths)
                baseline_dir = stages.baseline(plan, baseline) if baseline else None
                generate_locally(plan, shards, upload, reporter)
        if shared is not None:
            close_shared(plan, shared)
            report_preflight(reporter, plan.paths)
        verdict = stages.validate(plan.paths.root, baseline_dir, asked.require, asked.epsilon) if baseline_dir else None
        report = stages.summarize(plan.paths.root)
        write_manifest(plan.paths.root)
        if upload is not None:
            report_upload(reporter, stages.upload(plan.paths.root, upload))
        report_equivalence(reporter, plan.paths)
        report_run(reporter, report, upload)
        if verdict is not None and not verdict.meets(asked.require):
            reporter.event(
                "harvest.equivalence.failed", plan.run_id, {"verdict": verdict.verdict, "reason": verdict.reason}
            )
            verdict.raise_if_below(asked.require)
    return report


@contextlib.contextmanager
def _gpus_if_needed(plan: RunPlan, shards: list[Shard], baseline: str | None) -> Iterator[bool]:
    """Lock this node's GPUs and yield True; yield False without a lock when nothing is left to generate.

    Any machine can do the rest of a run, such as a comparison or an upload.
    """
    if baseline != AUTO and not find_remaining(plan, shards).to_generate:
        yield False
        return
    with lock_gpus(gpus_of_run(plan), run_id=plan.run_id, on_wait=log_and_print):
        yield True


def _outcome(report: RunReport) -> str:
    mean = "no rewards" if report.mean_reward is None else f"mean reward {report.mean_reward:.3f}"
    return f"{report.num_rollouts:,} rollouts, {report.num_errors:,} errors, {mean}: {report.run_id}"
