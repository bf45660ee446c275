"""Finds out whether a run has nothing left to do, and which unfinished run can be resumed."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.verdict import Tier
from tasks.files import read_json, read_record, try_read_record
from tasks.plan.run_plan import RunPlan, slug
from tasks.plan.shards import Shard
from tasks.plan.waves import find_remaining
from tasks.records import RunPaths
from tasks.results.run_report import RunReport
from tasks.storage.published import read_published
from tasks.storage.run_files import problems_of_run
from tasks.storage.transfer_errors import redact
from tasks.storage.upload_record import read_upload_record


def planned_shards(plan: RunPlan) -> list[Shard]:
    """Return all shards of a run, on disk or not."""
    shards = []
    for index in range(plan.num_shards):
        num_questions = min(plan.shard_size, plan.num_questions - index * plan.shard_size)
        shards.append(
            Shard(index=index, num_questions=num_questions, num_rollouts=num_questions * plan.rollouts_per_question)
        )
    return shards


def finished_report(plan: RunPlan, *, upload_url: str | None = None, require: Tier | None = None) -> RunReport | None:
    """Return the report of a run that has nothing left to do, or None.

    A run is finished when all its files are on disk with the checksums on record, the manifest is written,
    the comparison with the baseline meets ``require`` (if given), and the upload to ``upload_url`` (if given) is
    complete.
    """
    paths = plan.paths
    # a damaged file counts as missing, because the run makes it again
    report = try_read_record(paths.report, RunReport)
    if report is None or report.fingerprint != plan.fingerprint or not paths.manifest.is_file():
        return None
    if find_remaining(plan, planned_shards(plan)) or problems_of_run(paths.root):
        return None
    if require is not None and not _is_equivalent(plan, require):
        return None
    if upload_url is not None and not _is_uploaded(plan, upload_url):
        return None
    return replace(report, run_dir=str(paths.root))


def unfinished_name(plan: RunPlan) -> str | None:
    """Return the name of the newest unfinished run with the fingerprint of ``plan`` in its runs directory, or None."""
    runs_dir, suffix = plan.paths.root.parent, f"-{plan.fingerprint[:10]}"
    for config in sorted(runs_dir.glob(f"*{suffix}/config.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        root: Path = config.parent
        value = read_json(config)
        known = value.get("fingerprint") if isinstance(value, dict) else None
        if known == plan.fingerprint and not (root / "manifest.json").is_file():
            name = root.name.removesuffix(suffix)
            # the rest of the name tells the adapter
            return name if plan.adapter is None else name.removesuffix(f"-{slug(plan.adapter.name)}")
    return None


def _is_equivalent(plan: RunPlan, require: Tier) -> bool:
    comparison = try_read_record(plan.paths.equivalence, EquivalenceReport)
    return comparison is not None and comparison.meets(require)


def _is_uploaded(plan: RunPlan, url: str) -> bool:
    record = read_upload_record(plan.paths.root)
    return record is not None and record.complete and record.url == redact(f"{url.rstrip('/')}/{plan.run_id}")


_Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class _Config:
    fingerprint: str
    arms: tuple[dict[str, Any], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    tested: dict[str, Any] = field(default_factory=dict)
    num_questions: _Count | None = None
    num_rollouts: _Count | None = None


def read_config(run_dir: Path) -> dict[str, Any]:
    """Return config.json of the run; an empty mapping when there is none. Raises DamagedFile."""
    path = RunPaths(root=run_dir).config
    known = read_published(path, _Config)
    if known is None:
        return {}
    counts = {"num_questions": known.num_questions, "num_rollouts": known.num_rollouts}
    return {**(read_record(path, dict[str, Any]) or {}), **counts}
