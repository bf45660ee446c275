"""Exports a finished run as training data: one file per shard in a trainer's own columns, and a manifest.

Shards are read, filtered and written one after the other, so memory does not grow with the run. An earlier
``manifest.json`` is deleted before the first file is written, and the new one is written last: a directory with a
manifest is complete. The directory can be loaded as a dataset repository.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.export.advantages import group_advantages
from tasks.export.card import export_card
from tasks.export.filters import (
    DropCounts,
    ExportFilters,
    apply_filters,
    check_filters,
    keep_complete_groups,
    keep_trainable,
)
from tasks.export.formats import FORMATS, ExportFormat
from tasks.export.group_choice import choose_rollouts
from tasks.export.prompt_check import ArmPrompts, check_prompts
from tasks.files import is_temporary
from tasks.plan.prompts import TEXT
from tasks.plan.sampling import run_sampling, truncation_warning
from tasks.records import OWN_SCORES
from tasks.results.finished_run import read_config
from tasks.results.group_pass_rates import wave_plan_of
from tasks.results.pass_rate import WavePlan
from tasks.results.scored_rollouts import check_scored, scored_rollout_columns, scored_shards
from tasks.storage.destination import open_store
from tasks.storage.digests import digest_file
from tasks.storage.filesystems import TransferSettings
from tasks.storage.object_store import ObjectStore
from tasks.storage.run_files import run_fingerprint, scan_shards
from tasks.storage.score_sets import right_at

MANIFEST = "manifest.json"
CARD = "README.md"
DATA_NAME = "train-{:05d}"


@dataclass(frozen=True, kw_only=True)
class ExportFile:
    """One written file."""

    path: str
    """Relative to the manifest."""
    rows: int
    bytes: int
    sha256: str
    """In hex."""


@dataclass(frozen=True, kw_only=True)
class ExportManifest:
    """The contents of an export's ``manifest.json``."""

    to: str
    """Name of the target."""
    source: str
    """The trainer's version; the columns were checked against its code."""
    run_id: str
    fingerprint: str
    """The run's."""
    data_source: str
    """Name or path of the dataset of the questions."""
    url: str
    """Directory or URL of the export."""
    filters: ExportFilters
    columns: tuple[str, ...]
    rollouts_read: int
    """Rollouts of the run."""
    rollouts: int
    """Rollouts exported."""
    groups: int
    rollouts_per_group: int
    """The group size to configure in the trainer: the run's, or ``max_per_group`` if it is smaller, or ``group_size``.
    With ``best`` the most rollouts of a group."""
    chat_template_kwargs: dict[str, Any]
    """To configure in a trainer that gives prompts to the chat template. Empty for other targets."""
    dropped: dict[str, int]
    """Rollouts left out, by reason."""
    warnings: tuple[str, ...]
    """What a trainer must know of the rollouts; a sentence each."""
    files: tuple[ExportFile, ...]


def export_run(
    run_dir: Path,
    to: str,
    out: str,
    filters: ExportFilters | None = None,
    transfer: TransferSettings | None = None,
    *,
    advantages: bool = False,
    scores: str = OWN_SCORES,
) -> ExportManifest:
    """Export the run at ``run_dir`` for the target ``to`` into the directory or URL ``out``.

    ``advantages`` adds the column ``advantage`` to a target that takes every column. ``scores`` is the folder of the
    scores.

    Raises ConfigError when the run is not finished and scored, when the target or a filter does not fit the run, when
    the trainer would make other token ids of a prompt, when ``out`` holds other files, or when no rollout passes.
    Raises UploadError or StorageError when a write fails.
    """
    chosen, filters = _format(to, advantages=advantages), filters or ExportFilters()
    arms, least, samples = _arms_and_group_sizes(run_dir, scores)
    check_filters(filters, [arm.arm_id for arm in arms], samples)
    plan = wave_plan_of(run_dir)
    _check_target(chosen, filters, samples)
    _check_sizes(chosen, filters, (least, samples), plan)
    template_kwargs = check_prompts(chosen, [arm for arm in arms if not filters.arms or arm.arm_id in filters.arms])
    size = filters.best or filters.group_size or min(samples, filters.max_per_group or samples)
    store = open_store(out, transfer, for_writing=True)
    earlier = _own_files(store)
    source = _data_source(run_dir)
    counts, groups = DropCounts(), 0
    columns: tuple[str, ...] = ()
    files: list[ExportFile] = []
    with tempfile.TemporaryDirectory(prefix="harvest-export-") as staging:
        for index, rollouts in _filtered(run_dir, scores, chosen, filters, size, counts):
            if rollouts.is_empty():
                continue
            if not files:
                store.delete(MANIFEST)
            groups += rollouts["group_id"].n_unique()
            frame = chosen.columns(rollouts, source)
            columns = tuple(frame.columns)
            name = DATA_NAME.format(index) + chosen.suffix
            files.append(_write(frame, Path(staging) / name, store))
    if not files:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items())
        raise ConfigError(f"none of the {counts.read} rollouts passes ({reasons}). Loosen the filters")
    report = ExportManifest(
        to=chosen.name,
        source=chosen.source,
        run_id=run_dir.resolve().name,
        fingerprint=run_fingerprint(run_dir),
        data_source=source,
        url=store.url,
        filters=filters,
        columns=columns,
        rollouts_read=counts.read,
        rollouts=sum(file.rows for file in files),
        groups=groups,
        rollouts_per_group=size,
        chat_template_kwargs=template_kwargs,
        dropped=counts.dropped,
        warnings=_warnings(run_dir),
        files=tuple(files),
    )
    for name in earlier - {file.path for file in files} - {CARD}:
        store.delete(name)
    store.put_bytes(CARD, export_card(asdict(report), chosen.suffix).encode(), fingerprint="")
    store.put_bytes(MANIFEST, json.dumps(asdict(report), indent=2).encode() + b"\n", fingerprint="")
    return report


def _format(to: str, *, advantages: bool) -> ExportFormat:
    if to not in FORMATS:
        raise ConfigError(f"cannot export to {to!r}; the targets are {', '.join(FORMATS)}")
    chosen = FORMATS[to]
    if advantages and chosen.for_training and not chosen.advantages:
        raise ConfigError(f"{to} has no column for advantages: the trainer makes its own. Use parquet or jsonl")
    return replace(chosen, advantages=chosen.advantages or advantages)


def _arms_and_group_sizes(run_dir: Path, scores: str) -> tuple[list[ArmPrompts], int, int]:
    """Return the arms of the run, and the sizes of its smallest and its largest group."""
    check_scored(run_dir, scores)
    role = pl.col("prompt").list.first().struct.field("role")
    groups = (
        scan_shards(run_dir, "rollouts")
        .group_by("arm_id", "group_id")
        .agg(pl.len(), is_plain=(role == TEXT).any())
        .group_by("arm_id")
        .agg(pl.col("len").min().alias("least"), pl.col("len").max(), pl.col("is_plain").any())
        .sort("arm_id")
        .collect(engine="streaming")
    )
    kwargs = {arm.get("id"): arm.get("chat_template_kwargs") or {} for arm in read_config(run_dir).get("arms", [])}
    arms = [
        ArmPrompts(arm_id=arm_id, is_plain=is_plain, template_kwargs=kwargs.get(arm_id, {}))
        for arm_id, is_plain in groups.select("arm_id", "is_plain").iter_rows()
    ]
    return arms, min(groups["least"].to_list()), max(groups["len"].to_list())


def _check_target(chosen: ExportFormat, filters: ExportFilters, samples: int) -> None:
    if chosen.for_training and filters.include_errors:
        raise ConfigError(
            f"{chosen.name} cannot take error rows: they have no tokens. Use parquet or jsonl, or leave them out"
        )
    if filters.best is not None:
        if chosen.for_training and chosen.name != "trl":
            raise ConfigError(
                f"best is {filters.best}, which leaves right rollouts alone, for supervised fine-tuning, and "
                f"{chosen.name} compares right and wrong ones. Export to trl, parquet or jsonl"
            )
        return
    size = min(samples, filters.max_per_group or samples)
    if chosen.needs_group and size < 2:
        limit = "--samples-per-arm was 1" if samples < 2 else f"max_per_group is {filters.max_per_group}"
        others = ", ".join(name for name, target in FORMATS.items() if not target.needs_group)
        raise ConfigError(
            f"{chosen.name} compares the rollouts of a group, but a group has only one here ({limit}). Generate with "
            f"--samples-per-arm 2 or more, or export to one of {others}"
        )
    if chosen.advantages and samples < 2:
        raise ConfigError(
            "an advantage compares the rollouts of a group, but a group has only one here (samples_per_arm was 1). "
            "Generate with --samples-per-arm 2 or more, or export without advantages"
        )


def _check_sizes(chosen: ExportFormat, filters: ExportFilters, sizes: tuple[int, int], plan: WavePlan) -> None:
    """Raise ConfigError where groups differ in size by the run's stopping rule, and the target cannot take that."""
    if plan.rule is None or filters.group_size is not None:
        return
    least, most = sizes
    how = f"groups of this run have from {least} to {most} rollouts, as they were sampled until {plan.rule}, and"
    if chosen.equal_groups and filters.best is None and (filters.max_per_group or most) > least:
        raise ConfigError(
            f"{how} {chosen.name} takes groups of one size. Give --group-size, for instance with --balance"
        )
    if chosen.advantages and least < 2:
        raise ConfigError(
            f"{how} an advantage compares those of a group. Give --group-size, which leaves out smaller ones"
        )


def _filtered(
    run_dir: Path, scores: str, chosen: ExportFormat, filters: ExportFilters, size: int, counts: DropCounts
) -> Iterator[tuple[int, pl.DataFrame]]:
    right = right_at(run_dir, scores)
    has_waves = wave_plan_of(run_dir).rule is not None
    # an advantage is relative to the whole group, or to the group that is chosen for the trainer
    early = chosen.advantages and filters.group_size is None
    for index, scored in scored_shards(run_dir, scored_rollout_columns(run_dir, scores), scores=scores):
        # the waves of a group follow each other in the files of their own
        rollouts = _by_group(scored) if has_waves else scored
        rollouts = group_advantages(rollouts) if early else rollouts
        rollouts = apply_filters(rollouts, filters, counts, right)
        if chosen.for_training:
            rollouts = keep_trainable(rollouts, counts)
        rollouts = choose_rollouts(rollouts, filters, right, counts)
        if chosen.advantages and not early:
            rollouts = group_advantages(rollouts)
        if chosen.equal_groups and size > 1 and filters.best is None:
            rollouts = keep_complete_groups(rollouts, size, counts)
        yield index, rollouts


def _by_group(rollouts: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("_row").min().over("group_id")
    return rollouts.with_row_index("_row").sort(first, "sample_index").drop("_row")


def _own_files(store: ObjectStore) -> set[str]:
    """Return the names of an earlier export's files in ``store``. Raises ConfigError when it holds any other file."""
    names = {name for name in store.listing() if not is_temporary(Path(name))}
    others = sorted(
        name for name in names if name not in (MANIFEST, CARD) and not name.startswith(DATA_NAME.partition("{")[0])
    )
    if others:
        raise ConfigError(f"{store.url} holds other files, such as {others[0]}. Give an empty or a new directory")
    return names


def _data_source(run_dir: Path) -> str:
    dataset = read_config(run_dir).get("config", {}).get("dataset")
    path = dataset.get("path") if isinstance(dataset, dict) else None
    return str(path or run_dir.resolve().name)


def _warnings(run_dir: Path) -> tuple[str, ...]:
    told = truncation_warning(run_sampling(read_config(run_dir)))
    return () if told is None else (told,)


def _write(frame: pl.DataFrame, staged: Path, store: ObjectStore) -> ExportFile:
    if staged.suffix == ".jsonl":
        frame.write_ndjson(staged)
    else:
        frame.write_parquet(staged, compression="zstd", statistics=True)
    with staged.open("rb") as file:
        digest = digest_file(file, store.transfer.part_bytes)
        store.put_file(staged.name, file, digest, fingerprint="")
    staged.unlink()
    return ExportFile(path=staged.name, rows=frame.height, bytes=digest.size, sha256=digest.sha256)
