"""Measures how far a trainer's logprobs are from those that the engine stored, on a sample of a run's rollouts.

A trainer that computes them with other weights, prompts or kernels, or of another distribution, corrects with ratios
that are not those of its policy. Here transformers recomputes the stored tokens' logprobs, in a process of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.comparison.importance_ratios import Array, sequence_ratios, token_ratios
from tasks.comparison.mismatch_report import (
    DIRECTION,
    ArmMismatch,
    GapAtPositions,
    MismatchReport,
    WorstToken,
    publish_mismatch,
)
from tasks.comparison.mismatch_request import MismatchRequest
from tasks.comparison.recomputation import MASK, RecomputedLogprobs
from tasks.comparison.sampling_support import SAMPLED_BY, Truncation
from tasks.comparison.trainer_logprobs import TrainerModel
from tasks.errors import ConfigError
from tasks.plain_text import one_line
from tasks.plan.prompts import ChatTokenizer
from tasks.records import RunPaths
from tasks.storage.published import check_published, read_shard
from tasks.subprocess_call import call_in_subprocess

_DTYPES = ("bfloat16", "float16", "float32")
_COLUMNS = ["rollout_id", "arm_id", "prompt", "prompt_ids", "completion_ids", "logprobs", "temperature", "top_p"]
_OPTIONAL = ["top_k", "min_p", MASK]
_POSITIONS = (0, 1, 8, 32, 128, 512)
"""Where each range of positions begins."""
_WORST = 10
_BEFORE = 12
_CHARACTERS = 200


def mismatch_in_subprocess(run_dir: Path, request: MismatchRequest) -> MismatchReport:
    """Measure in a subprocess, so that its memory is free again; publish ``mismatch.json`` and return it.

    Raises HarvestError as ``measure_mismatch`` does.
    """
    log_path = RunPaths(root=run_dir).logs / "mismatch.log"
    report = call_in_subprocess(measure_mismatch, f"mismatch of {request.run_id}", log_path, request)
    publish_mismatch(report, run_dir)
    return report


def measure_mismatch(request: MismatchRequest) -> MismatchReport:
    """Recompute the sample's logprobs and compare them with the stored ones.

    Raises ConfigError when the model does not fit the rollouts or the device is not there, HarvestError when it cannot
    be loaded or memory runs out, DamagedFile for a shard that is not what was published.
    """
    rows = pl.concat([_read(path, numbers) for path, numbers in request.sample.rows.items()])
    facts = rows.row(0, named=True)
    if facts["dtype"] not in _DTYPES:
        raise ConfigError(f"the rollouts are of dtype {facts['dtype']!r}; it must be one of {', '.join(_DTYPES)}")
    stated: dict[str, Any] = {name: facts[name] for name in SAMPLED_BY if name in facts}
    truncation = Truncation.of({**request.sampling, **stated})
    model = TrainerModel(
        request.model,
        dtype=facts["dtype"],
        device=request.device,
        trust_remote_code=request.trust_remote_code,
    )
    tokenizer = ChatTokenizer(request.model, trust_remote_code=request.trust_remote_code)
    recomputed = RecomputedLogprobs(rows, truncation, request.seed)
    recomputed.fill(model)
    engine, full, nearest = recomputed.engine, recomputed.full, recomputed.nearest
    return MismatchReport(
        run_id=request.run_id,
        model=str(request.model),
        same_weights=request.same_weights,
        dtype=facts["dtype"],
        device=request.device,
        engine=facts["engine_version"],
        trainer=model.versions,
        seed=request.seed,
        rollouts=rows.height,
        eligible=request.sample.eligible,
        error_rows=request.sample.error_rows,
        empty_completions=request.sample.empty_completions,
        compared=_compared(truncation),
        direction=DIRECTION,
        full=token_ratios(np.concatenate(engine), np.concatenate(full)),
        truncated=token_ratios(np.concatenate(engine), np.concatenate(nearest)) if recomputed.truncates else None,
        sequences=sequence_ratios([trainer - own for trainer, own in zip(full, engine, strict=True)]),
        temperatures=recomputed.temperature_fit(),
        positions=_positions(engine, nearest),
        arms=_arms(rows, engine, nearest, _prompts_differ(rows, tokenizer, request)),
        worst=_worst(rows, engine, nearest, tokenizer),
        notes=(*request.notes, *_stated_otherwise(request.sampling, stated)),
    )


def _read(path: Path, numbers: Sequence[int]) -> pl.DataFrame:
    check_published(path)
    present = pl.read_parquet_schema(path)
    columns = [*_COLUMNS, "dtype", "engine_version", *(name for name in _OPTIONAL if name in present)]
    return read_shard(path, columns)[list(numbers)]


def _compared(truncation: Truncation) -> str:
    if truncation.is_greedy:
        return (
            "greedy run: the engine's logprobs are of the whole softmax at temperature 1, as is the recomputation. No "
            "token was drawn at random, so k1 and k3 are means over the likeliest tokens, not estimates of a divergence"
        )
    whole = f"the whole softmax at temperature {truncation.temperature:g}"
    if truncation.truncates:
        return f"the engine's logprobs are of what {truncation} leaves; a trainer computes those of {whole}"
    return f"the engine's logprobs and the recomputation are of {whole}"


def _stated_otherwise(config: Any, rollouts: dict[str, Any]) -> list[str]:
    return [
        f"config.json says {name} {config[name]}, and the rollouts {value}: theirs was used."
        for name, value in rollouts.items()
        if config.get(name, value) != value
    ]


def _mean_gap(gaps: Array) -> float | None:
    finite = gaps[np.isfinite(gaps)]
    return float(finite.mean()) if len(finite) else None


def _positions(engine: Sequence[Array], trainer: Sequence[Array]) -> tuple[GapAtPositions, ...]:
    place = np.concatenate([np.arange(len(values)) for values in engine])
    gap = np.abs(np.concatenate(trainer) - np.concatenate(engine))
    ranges = zip(_POSITIONS, (*(start - 1 for start in _POSITIONS[1:]), None), strict=True)
    found = (
        (first, last, gap[(place >= first) & (place <= (np.inf if last is None else last))]) for first, last in ranges
    )
    return tuple(
        GapAtPositions(first=first, last=last, tokens=len(gaps), mean_gap=_mean_gap(gaps))
        for first, last, gaps in found
        if len(gaps)
    )


def _prompts_differ(rows: pl.DataFrame, tokenizer: ChatTokenizer, request: MismatchRequest) -> list[bool]:
    found = []
    for arm, messages, stored in rows.select("arm_id", "prompt", "prompt_ids").iter_rows():
        try:
            made = tokenizer.encode(messages, request.template_kwargs.get(arm))
        except ConfigError:  # this model's template does not take the prompt
            made = []
        found.append(made != stored)
    return found


def _arms(
    rows: pl.DataFrame, engine: Sequence[Array], trainer: Sequence[Array], differ: Sequence[bool]
) -> tuple[ArmMismatch, ...]:
    found = []
    for arm in rows["arm_id"].unique(maintain_order=True):
        places = [index for index, value in enumerate(rows["arm_id"]) if value == arm]
        gaps = np.abs(np.concatenate([trainer[index] - engine[index] for index in places]))
        found.append(
            ArmMismatch(
                arm_id=arm,
                rollouts=len(places),
                tokens=len(gaps),
                mean_gap=_mean_gap(gaps),
                prompts_differ=sum(differ[index] for index in places),
            )
        )
    return tuple(found)


def _worst(
    rows: pl.DataFrame, engine: Sequence[Array], trainer: Sequence[Array], tokenizer: ChatTokenizer
) -> tuple[WorstToken, ...]:
    gaps = np.abs(np.concatenate(trainer) - np.concatenate(engine))
    ends = np.cumsum([len(values) for values in engine])
    found = []
    for flat in np.argsort(-gaps, kind="stable")[:_WORST]:
        index = int(np.searchsorted(ends, flat, side="right"))
        position = int(flat - (ends[index - 1] if index else 0))
        row = rows.row(index, named=True)
        ids = [*row["prompt_ids"], *row["completion_ids"]]
        place = len(row["prompt_ids"]) + position
        found.append(
            WorstToken(
                rollout_id=row["rollout_id"],
                arm_id=row["arm_id"],
                position=position,
                token_id=ids[place],
                text=one_line(tokenizer.text_of(ids[place : place + 1]), _CHARACTERS),
                before=one_line(tokenizer.text_of(ids[max(0, place - _BEFORE) : place]), _CHARACTERS),
                engine_logprob=float(engine[index][position]),
                # JSON has no infinity
                trainer_logprob=float(trainer[index][position]) if np.isfinite(trainer[index][position]) else None,
            )
        )
    return tuple(found)
