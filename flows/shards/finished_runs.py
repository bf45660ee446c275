"""What follows generation, for each run of a collection: comparison, report, manifest and upload."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows.live.display import enter_phase
from flows.parameters import FlowParameters
from flows.reporting.artifacts import report_equivalence, report_run, report_upload
from flows.reporting.progress import log_and_print
from flows.reporting.reporter import Reporter
from flows.shards import stages
from flows.shards.stage_order import StageOrder
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.errors import HarvestError, NotEquivalent
from tasks.plan.run_plan import RunPlan
from tasks.records import SET_PREFIX
from tasks.results.collected import Collected
from tasks.results.run_end import record_end
from tasks.results.run_report import RunReport
from tasks.scoring.extra_columns import align_extra_columns
from tasks.storage.run_files import known_waves, write_manifest
from tasks.storage.score_sets import ScoreSet, publish_set


def finish_runs(
    plans: Sequence[RunPlan],
    baselines: Mapping[str, Path],
    asked: FlowParameters,
    reporter: Reporter,
    order: StageOrder,
    *,
    on_report: Callable[[RunReport], None],
) -> Collected:
    """Compare, report, seal and upload each run. ``baselines`` has the runs to compare with, by run id.

    ``on_report`` gets the report of each run that has its files, also of one that falls short of its baseline.

    A failure of one run does not keep the others from this. Raises the failure with the highest exit code at the end.
    """
    reports: list[RunReport] = []
    failures: list[HarvestError] = []
    for number, plan in enumerate(plans, 1):
        which = "" if len(plans) == 1 else f" run {number} of {len(plans)}"
        try:
            report = _finish(plan, baselines.get(plan.run_id), asked, reporter, order, which, on_report)
            reports.append(report)
        except HarvestError as error:
            failures.append(error)
            if not isinstance(error, NotEquivalent):
                record_end(plan.paths.root, error)
            if len(plans) > 1:
                log_and_print(f"run {plan.run_id} failed: {error}")
    if failures:
        raise max(failures, key=lambda error: error.exit_code)
    return Collected(reports=tuple(reports))


def _finish(
    plan: RunPlan,
    baseline: Path | None,
    asked: FlowParameters,
    reporter: Reporter,
    order: StageOrder,
    which: str,
    on_report: Callable[[RunReport], None],
) -> RunReport:
    root = plan.paths.root
    paths = plan.paths
    align_extra_columns(known_waves(root, paths.scores_folder).values())
    if not paths.are_own_scores:
        made = ScoreSet(scorer=plan.config.scorer, right_at=plan.config.right_at)
        publish_set(root, paths.scores_folder, made)
        name = paths.scores_folder.removeprefix(SET_PREFIX)
        log_and_print(
            f"the run keeps its own scores; those of {plan.config.scorer} are read with --scores {name}, and "
            f"harvest score {plan.run_id} --use {name} makes them the run's"
        )
    verdict: EquivalenceReport | None = None
    if baseline is not None:
        enter_phase(f"validating{which}")
        compared = (root, paths.scores_folder, baseline, asked.require, asked.epsilon)
        verdict = order.call([plan], stages.validate, *compared)
    enter_phase(f"summarizing{which}")
    report: RunReport = order.call([plan], stages.summarize, root, paths.scores_folder)
    write_manifest(root)
    if asked.upload is not None:
        enter_phase(f"uploading{which}")
        report_upload(reporter, order.call([plan], stages.upload, root, asked.upload))
    report_equivalence(reporter, plan.paths)
    report_run(reporter, report, asked.upload)
    on_report(report)
    if verdict is not None and not verdict.meets(asked.require):
        reporter.event(
            "harvest.equivalence.failed", plan.run_id, {"verdict": verdict.verdict, "reason": verdict.reason}
        )
        verdict.raise_if_below(asked.require)
    return report
