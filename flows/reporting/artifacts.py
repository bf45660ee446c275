"""Makes the artifacts of a run for Prefect's UI, tables and text, from the run's JSON files."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from flows.reporting.reporter import Reporter, TableRow
from tasks.comparison.equivalence_report import EquivalenceReport, read_equivalence
from tasks.generation.rung_state import RungChange
from tasks.node.check_result import CheckResult
from tasks.node.engine_caches import START_WORDS
from tasks.node.preflight_report import read_preflight
from tasks.plain_text import markdown
from tasks.records import RunPaths
from tasks.results.metrics import ArmMetrics
from tasks.results.page_plots import ArmPoint, reward_plot
from tasks.results.run_report import RunReport
from tasks.results.step_report import StepReport
from tasks.storage.upload_record import UploadRecord

_BAR_CHARS = 20
"""Length of the bar of a mean reward of 1, or of the highest one if that is more."""


def report_preflight(reporter: Reporter, paths: RunPaths) -> None:
    """Show every check of preflight.json."""
    found = read_preflight(paths.root)
    if found is not None:
        reporter.table("harvest-preflight", _checks(found.checks), f"Preflight: {found.worst}")


def report_equivalence(reporter: Reporter, paths: RunPaths) -> None:
    """Show the verdict of equivalence.json, its reason and its tiers."""
    found = read_equivalence(paths.root)
    if found is not None:
        description = (
            f"Equivalence: **{found.verdict}** against {markdown(found.baseline.run_id)}. "
            f"{markdown(found.reason, 2_000)}. "
            f"Near-tie limit: {found.limits.near_tie_limit:.3g} nats, {markdown(found.limits.source)}"
        )
        reporter.table("harvest-equivalence", _tiers(found), description)


def report_run(reporter: Reporter, report: RunReport, upload_url: str | None) -> None:
    """Show a finished run: rewards per arm, throughput, rungs of the OOM ladder, and where its files are."""
    total = f"{report.num_rollouts:,} rollouts, mean reward {_number(report.mean_reward, 3)}"
    reporter.table("harvest-arms", [*map(_arm, report.all_arms)], total)
    reporter.table("harvest-throughput", _throughput(report), "Throughput and telemetry")
    rungs = [_rung(change) for change in report.oom_ladder]
    reporter.table("harvest-oom-rungs", rungs, f"Rollouts per rung: {report.rollouts_per_rung}")
    reporter.image("harvest-rewards", reward_plot(_points(report.arms)), total)
    reporter.markdown("harvest-report", run_markdown(report, upload_url), total)


def report_steps(reporter: Reporter, steps: StepReport, page: Path) -> None:
    """Show the mean rewards of several checkpoints by step, and where the page with the plot is."""
    rows: list[TableRow] = [
        {
            "step": run.step,
            **{arm: _arm(run.arms[arm])["mean reward"] if arm in run.arms else "-" for arm in steps.arms},
            "state": run.state.name,
            "run": run.report.run_id,
        }
        for run in steps.runs
    ]
    reporter.table("harvest-steps", rows, f"Mean reward by step: {markdown(page.resolve())}")


def report_upload(reporter: Reporter, record: UploadRecord) -> None:
    """Show the destination's files, as the upload record has them, and how they were verified."""
    proofs = Counter(file.verified for file in record.files.values())
    values = {
        "url": record.url,
        "complete": "yes" if record.complete else "no",
        "files": f"{len(record.files):,}",
        "bytes": f"{sum(file.size for file in record.files.values()):,}",
        "files sent last": f"{record.files_sent:,}",
        "bytes sent last": f"{record.bytes_sent:,}",
        "verified by": ", ".join(f"{proof}: {count:,}" for proof, count in sorted(proofs.items())),
        "sha256 of the manifest": record.manifest_sha256 or "-",
    }
    rows = [{"figure": name, "value": value} for name, value in values.items()]
    reporter.table("harvest-upload", rows, f"Upload to {markdown(record.url)}")


def run_markdown(report: RunReport, upload_url: str | None) -> str:
    """Return the run's page in Markdown. A browser follows no link from the UI to a file, so paths are text."""
    directory = Path(report.run_dir).resolve()
    lines = [
        f"# {markdown(report.run_id)}",
        "",
        f"{report.num_questions:,} questions under {len(report.arms)} arms of {markdown(report.dataset)} with "
        f"{markdown(report.model)} on profile {markdown(report.profile)}: {report.num_rollouts:,} rollouts, "
        f"{report.num_errors} of them errors, {report.num_unscored} others without a reward.",
        "",
        f"- run directory: {markdown(directory)}, with the whole report in report.html",
    ]
    if upload_url is not None:
        url = f"{upload_url.rstrip('/')}/{report.run_id}"
        link = browse_url(url)
        lines.append(f"- uploaded to: [{markdown(url)}]({link})" if link else f"- uploaded to: {markdown(url)}")
    if report.equivalence:
        lines.append(
            f"- equivalence: **{markdown(report.equivalence.verdict)}**: {markdown(report.equivalence.reason, 2_000)}"
        )
    lines += ["", "| arm | mean reward | 95% interval | truncated | tokens | |", "| --- |" + " ---: |" * 4 + " :--- |"]
    highest = max([1.0, *(arm.mean_reward or 0.0 for arm in report.all_arms)])
    for arm in report.all_arms:
        bar = "█" * round(_BAR_CHARS * (arm.mean_reward or 0.0) / highest)
        lines.append("| " + " | ".join([*map(markdown, _arm(arm).values()), bar]) + " |")
    lines += ["", f"Fingerprint {markdown(report.fingerprint)}. A run with the same parameters generates nothing new."]
    return "\n".join(lines)


def browse_url(url: str) -> str | None:
    """Return a link for a browser: the S3 console or the configured endpoint for s3://; None for a directory."""
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "s3a"):
        return url if parts.scheme in ("http", "https") else None
    key = parts.path.strip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{parts.netloc}?prefix={quote(key)}/"
    return f"https://s3.console.aws.amazon.com/s3/buckets/{parts.netloc}?prefix={quote(key)}/"


def _checks(checks: Sequence[CheckResult]) -> list[TableRow]:
    return [
        {
            "check": check.name if check.gpu is None else f"GPU {check.gpu} {check.name}",
            "outcome": check.status,
            "found": check.value,
            "limit": check.limit,
            "what to do": check.remedy,
        }
        for check in checks
    ]


def _tiers(found: EquivalenceReport) -> list[TableRow]:
    return [{"tier": tier.tier, "holds": "yes" if tier.holds else "no", "reason": tier.reason} for tier in found.tiers]


def _arm(arm: ArmMetrics) -> TableRow:
    interval = arm.mean_reward_interval
    return {
        "arm": arm.arm_id,
        "mean reward": _number(arm.mean_reward, 3),
        "95% interval": "-" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}",
        "truncated": _percent(arm.truncation_rate),
        "tokens": _number(arm.mean_completion_tokens, 1),
    }


def _points(arms: Sequence[ArmMetrics]) -> list[ArmPoint]:
    return [
        ArmPoint(name=str(arm.arm_id), mean=arm.mean_reward, interval=arm.mean_reward_interval)
        for arm in arms
        if arm.mean_reward is not None
    ]


def _rung(change: RungChange) -> TableRow:
    return {
        "at": change.at,
        "from rung": change.from_rung,
        "to rung": change.to_rung,
        "memory": change.kind,
        "phase": change.phase,
        "question batch": change.settings.get("question_batch_size", "-"),
        "reason": change.reason,
    }


def _throughput(report: RunReport) -> list[TableRow]:
    generation, telemetry = report.generation, report.telemetry
    values = {
        "tokens generated": f"{generation.tokens:,}",
        "seconds generating": f"{generation.seconds:.1f}",
        "seconds starting engines": f"{generation.start_seconds:.1f}",
        "engines started": "-" if generation.start_kind is None else START_WORDS[generation.start_kind],
        "tokens per second": _number(generation.tokens_per_second, 1),
        "engines restarted": str(generation.restarts),
    }
    if telemetry is not None:
        values |= {
            "GPU seconds per rollout": _number(telemetry.gpu_seconds_per_rollout, 3),
            "utilization": _number(telemetry.utilization_percent, 1, " %"),
            "memory": _number(telemetry.memory_gib, 1, " GiB"),
            "steps in a CUDA graph": _percent(telemetry.graph_step_share),
            "cost": _number(telemetry.cost_usd, 2, " USD"),
        }
    if (batch := report.batch) is not None:
        values["question batch"] = f"{batch.least} to {batch.most}" if batch.least < batch.most else f"{batch.most}"
        values["why this batch"] = markdown(batch.reason, 500) if batch.reason else "-"
    return [{"figure": name, "value": value} for name, value in values.items() if value != "-"]


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
