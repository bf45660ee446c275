"""Makes report.json from the files of a run alone."""

from pathlib import Path
from typing import Literal

import polars as pl

from profiles.schema import AUTO, Profile
from tasks.comparison.equivalence_report import read_equivalence
from tasks.comparison.mismatch_report import read_mismatch
from tasks.fleet.node_totals import telemetry_scope
from tasks.generation.generation_log import GenerationSession, read_sessions
from tasks.generation.rung_state import RungState
from tasks.node.preflight_report import read_preflight
from tasks.node.telemetry_summary import TelemetrySummary, summarize_telemetry
from tasks.plan.sampling import run_sampling, truncation_warning
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.difficulty import publish_difficulty
from tasks.results.finished_run import read_config
from tasks.results.group_pass_rates import group_pass_rates, wave_plan_of
from tasks.results.metrics import run_metrics
from tasks.results.outcome import outcome_of
from tasks.results.run_report import (
    BatchInForce,
    EquivalenceOutcome,
    ErrorCount,
    GenerationTotals,
    MismatchOutcome,
    RunReport,
    publish_report,
)
from tasks.results.scored_rollouts import check_scored, load_metric_rows
from tasks.results.stopping_report import arm_pass_rates, stopping_report, undecided_warning
from tasks.scoring.score import is_right
from tasks.storage.score_sets import right_at

LISTED_ERRORS = 20


def summarize_run(run_dir: Path, scores: str = OWN_SCORES) -> RunReport:
    """Make, publish and return the report of the finished run at ``run_dir``, scored in the folder ``scores``."""
    report, groups = _summary(run_dir, scores)
    publish_difficulty(groups, run_dir, scores)
    publish_report(report, run_dir, scores)
    return report


def build_report(run_dir: Path, scores: str = OWN_SCORES) -> RunReport:
    """Return the report of the run at ``run_dir``, from config.json and the published shards.

    Raises ConfigError when the run is not finished and scored, DamagedFile when a file is not what was published.
    """
    return _summary(run_dir, scores)[0]


def _summary(run_dir: Path, scores: str) -> tuple[RunReport, pl.DataFrame]:
    """Return the report, and the groups in DIFFICULTY_SCHEMA."""
    paths = RunPaths(root=run_dir, scores_folder=scores)
    check_scored(run_dir, scores)
    right = right_at(run_dir, scores)
    config = read_config(run_dir)
    rows = load_metric_rows(paths, repetition=True)
    metrics = run_metrics(rows, right_at=right)
    plan = wave_plan_of(run_dir)
    groups = group_pass_rates(rows, plan, right)
    order = [arm["id"] for arm in config["arms"]]
    sessions = read_sessions(paths.state / "generation.json")
    telemetry = _telemetry(paths, config["profile"], rows, sessions, right)
    report = RunReport(
        run_id=paths.run_id,
        run_dir=str(paths.root),
        fingerprint=config["fingerprint"],
        profile=config["profile"]["name"],
        model=config["model"]["name"],
        dataset=config["config"]["dataset"]["path"],
        num_questions=config["num_questions"],
        num_rollouts=rows.height,
        num_errors=int(rows["error"].is_not_null().sum()),
        errors=_errors(rows),
        gold_suspects=rows.filter("gold_suspect")["example_id"].n_unique(),
        mean_reward=metrics.overall.mean_reward,
        mean_reward_without_suspects=metrics.overall.mean_reward_without_suspects,
        overall=metrics.overall,
        arms=tuple(sorted(metrics.arms, key=lambda arm: order.index(arm.arm_id))),
        contrasts=metrics.contrasts,
        generation=_totals(sessions),
        telemetry=telemetry,
        oom_ladder=tuple(RungState(paths.state / "oom_ladder.json").changes),
        rollouts_per_rung={str(rung): count for rung, count in rows.group_by("oom_rung").len().sort("oom_rung").rows()},
        equivalence=_equivalence(run_dir, scores),
        batch=_batch(run_dir, config["profile"]["question_batch_size"], rows),
        mismatch=mismatch_outcome(run_dir),
        warnings=tuple(filter(None, [truncation_warning(run_sampling(config)), undecided_warning(groups, plan)])),
        model_sampling=config.get("model_sampling"),
        outcome=outcome_of(paths, sessions),
        pass_rates=arm_pass_rates(groups),
        stopping=stopping_report(rows, groups, plan, telemetry.gpu_seconds_per_token if telemetry else None),
    )
    return report, groups


def mismatch_outcome(run_dir: Path) -> MismatchOutcome | None:
    """Return what the run's report says of mismatch.json; None when there is none. Raises DamagedFile."""
    found = read_mismatch(run_dir)
    if found is None:
        return None
    return MismatchOutcome(
        verdict=found.verdict,
        same_weights=found.same_weights,
        kl_k3=found.full.kl_k3,
        outside=found.full.outside,
        effective_sample=found.full.effective_sample,
    )


def _batch(run_dir: Path, stated: int | Literal["auto"], rows: pl.DataFrame) -> BatchInForce:
    preflight = read_preflight(run_dir) if stated == AUTO else None
    auto = preflight and preflight.plan and preflight.plan.auto
    batch = pl.col("question_batch_size")
    least, most, sequences = rows.select(batch.min(), batch.max().alias("most"), pl.col("max_num_seqs").max()).row(0)
    return BatchInForce(
        stated=stated,
        least=least,
        most=most,
        sequences=sequences,
        reason=auto.reason if auto else None,
    )


def _equivalence(run_dir: Path, scores: str) -> EquivalenceOutcome | None:
    found = read_equivalence(run_dir, scores)
    if found is None:
        return None
    return EquivalenceOutcome(verdict=found.verdict, reason=found.reason, baseline=found.baseline)


def _errors(rows: pl.DataFrame) -> tuple[ErrorCount, ...]:
    """Return the most frequent reasons for no reward. Those that differ only in numbers count as one."""
    unscored = pl.when(pl.col("reward").is_null()).then(pl.format("no reward: {}", "extraction_method"))
    errors = rows.select(error=pl.coalesce("error", unscored).drop_nulls().str.replace_all(r"\d+", "N"))
    return tuple(ErrorCount(**row) for row in errors["error"].value_counts(sort=True).head(LISTED_ERRORS).to_dicts())


def _totals(sessions: list[GenerationSession]) -> GenerationTotals:
    seconds = sum(session.seconds for session in sessions)
    tokens = sum(session.tokens for session in sessions)
    return GenerationTotals(
        seconds=round(seconds, 3),
        start_seconds=round(sum(session.start_seconds for session in sessions), 3),
        tokens=tokens,
        tokens_per_second=round(tokens / seconds, 1) if seconds else None,
        restarts=sum(session.restarts for session in sessions),
        sessions=tuple(sessions),
    )


def _telemetry(
    paths: RunPaths,
    profile: dict[str, object],
    rows: pl.DataFrame,
    sessions: list[GenerationSession],
    right: float,
) -> TelemetrySummary | None:
    if not paths.telemetry.exists():
        return None
    correct = int(rows.select(is_right("reward", right).sum()).item())
    summary = summarize_telemetry(
        paths.telemetry, Profile.model_validate(profile), rollouts=rows.height, correct=correct
    )
    return telemetry_scope(sessions, summary)
