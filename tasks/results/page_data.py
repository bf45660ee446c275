"""Gathers what the report page shows, from the files of a run alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from markupsafe import Markup

from tasks.comparison.equivalence_report import EquivalenceReport, read_equivalence
from tasks.comparison.mismatch_report import MismatchReport, read_mismatch
from tasks.files import read_json
from tasks.node.preflight_report import PreflightReport, read_preflight
from tasks.plain_text import one_line
from tasks.plan.sampling import run_sampling, truncation_warning
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.finished_run import read_config
from tasks.results.page_lengths import ArmLengths, LengthBins, arm_lengths, length_bins
from tasks.results.page_samples import Samples, pick_samples
from tasks.results.page_timeline import Timeline, read_timeline
from tasks.results.run_report import RunReport, read_report
from tasks.results.scored_rollouts import check_scored, load_metric_rows
from tasks.results.summary import build_report
from tasks.storage.score_sets import right_at

Tone = Literal["good", "careful", "bad", "unknown"]

_ITEM = Markup('<li class="{tone}"><span>{name}</span><b>{word}</b>{reason}</li>')


@dataclass(frozen=True, kw_only=True)
class StatusItem:
    """A verdict about ``name``: a short ``word``, and a ``reason`` on one line of at most 500 characters."""

    name: str
    word: str
    tone: Tone
    reason: str

    def __html__(self) -> str:
        """Return the item of the page's list."""
        return _ITEM.format(
            tone=self.tone, name=self.name, word=one_line(self.word, 120), reason=one_line(self.reason, 500)
        )


LISTED_DIVERGENCES = 10


@dataclass(frozen=True, kw_only=True)
class PageData:
    """Everything on the page."""

    run_id: str
    config: dict[str, Any]
    report: RunReport
    status: tuple[StatusItem, ...]
    preflight: PreflightReport | None
    equivalence: EquivalenceReport | None
    mismatch: MismatchReport | None
    bench: dict[str, Any] | None
    lengths: LengthBins
    arm_lengths: dict[str, ArmLengths]
    overall_lengths: ArmLengths | None
    """None when nothing is scored."""
    timeline: Timeline | None
    samples: Samples


def read_page_data(run_dir: Path, scores: str = OWN_SCORES) -> PageData:
    """Return the contents of the page. Raises ConfigError when the run at ``run_dir`` is not finished and scored.

    Without report.json the page shows the report that would be made.
    """
    check_scored(run_dir, scores)
    paths = RunPaths(root=run_dir, scores_folder=scores)
    rows, right = load_metric_rows(paths), right_at(run_dir, scores)
    config = read_config(run_dir)
    report = read_report(run_dir, scores) or build_report(run_dir, scores)
    preflight, equivalence = read_preflight(run_dir), read_equivalence(run_dir, scores)
    return PageData(
        run_id=run_dir.resolve().name,
        config=config,
        report=report,
        status=(_health(report, preflight), _equivalence(equivalence), *_logprobs(config)),
        preflight=preflight,
        equivalence=equivalence,
        mismatch=read_mismatch(run_dir),
        bench=find_benchmark(run_dir, config),
        lengths=length_bins(rows),
        arm_lengths=arm_lengths(rows, right),
        overall_lengths=arm_lengths(rows.with_columns(arm_id=pl.lit("all")), right).get("all"),
        timeline=read_timeline(paths.telemetry, report.oom_ladder),
        samples=pick_samples(run_dir, rows, scores=scores),
    )


def find_benchmark(run_dir: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the newest bench.json beside the run with the same profile and model; None when there is none."""
    profile, model = (config.get(name, {}).get("name") for name in ("profile", "model"))
    near = [run_dir.resolve().parent, *run_dir.resolve().parents[1:3]]
    files = {file for folder in near for file in [*folder.glob("bench-*/bench.json"), folder / "bench.json"]}
    for file in sorted(files, key=lambda file: file.parent.name, reverse=True):
        bench = _object(file)
        if bench.get("standings") and (bench.get("profile"), bench.get("model")) == (profile, model):
            return bench
    return None


def _health(report: RunReport, preflight: PreflightReport | None) -> StatusItem:
    targets = report.telemetry.targets if report.telemetry else ()
    missed = [target.name for target in targets if target.met is False]
    troubles = [
        *([f"error rows: {report.num_errors:,}"] if report.num_errors else []),
        *([f"other rows without a reward: {report.num_unscored:,}"] if report.num_unscored else []),
        *([f"steps down for lack of memory: {len(report.oom_ladder)}"] if report.oom_ladder else []),
        *([f"engine restarts: {report.generation.restarts}"] if report.generation.restarts else []),
        *([f"targets missed: {', '.join(missed)}"] if missed else []),
        *([f"preflight: {preflight.worst}"] if preflight and preflight.worst != "pass" else []),
    ]
    if troubles:
        return StatusItem(name="Health", word="needs a look", tone="careful", reason="; ".join(troubles))
    checked = f"{len(preflight.checks)} checks passed before the start; " if preflight and preflight.checks else ""
    return StatusItem(name="Health", word="good", tone="good", reason=f"{checked}no error rows and no failures.")


def _equivalence(equivalence: EquivalenceReport | None) -> StatusItem:
    if equivalence is None:
        return StatusItem(name="Equivalence", word="not compared", tone="unknown", reason="No baseline was given.")
    verdict, is_met = equivalence.verdict, equivalence.meets(equivalence.required)
    tone: Tone = "good" if is_met else "careful" if verdict == "inconclusive" else "bad"
    reason = f"Against {equivalence.baseline.run_id}: {equivalence.reason}"
    return StatusItem(name="Equivalence", word=verdict, tone=tone, reason=reason)


def _logprobs(config: dict[str, Any]) -> tuple[StatusItem, ...]:
    told = truncation_warning(run_sampling(config))
    return (
        () if told is None else (StatusItem(name="Logprobs", word="truncated", tone="careful", reason=f"The {told}."),)
    )


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {}
