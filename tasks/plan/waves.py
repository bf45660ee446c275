"""Samples in waves: which groups of a shard get more, by the scores of the waves before, and what is left of a run.

Without a rule a shard has one wave. With one, a later wave asks for the next samples of those groups of the wave before
for which the rule does not hold. What it asks follows from the configuration and the scores alone, so it is made anew
each time; its digest stands with the rollouts that were made of it.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import polars as pl

from tasks.files import publish_json, publish_parquet, try_read_record
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import RemainingShards, Shard, is_finished, rollouts_finished, scores_finished
from tasks.plan.stopping_rule import StoppingRule
from tasks.records import (
    QUESTION_SCHEMA,
    ROLLOUT_KEY,
    ROLLOUT_SCHEMA,
    WAVE_STEP,
    WAVES,
    shard_of,
    shard_stem,
    wave_of,
)
from tasks.scoring.score import is_right
from tasks.storage.published import forget_published, read_wave, record_published
from tasks.storage.run_files import Settled

ASKED_SCHEMA = pl.Schema(
    [*QUESTION_SCHEMA.items(), ("arm_ids", pl.List(pl.String)), ("first_sample", pl.Int32), ("end_sample", pl.Int32)]
)
"""One row per question of a later wave: under ``arm_ids`` it gets samples from ``first_sample`` to before
``end_sample``."""
_Counts = dict[tuple[str, str], tuple[int, int]]
"""Right and wrong rollouts of each group (example_id, arm_id) of the last wave."""


@dataclass(frozen=True, kw_only=True)
class Wave:
    """The samples of a shard that are generated together."""

    shard: Shard
    asked: pl.DataFrame | None = None
    """What a later wave asks, in ASKED_SCHEMA; None for the first, which asks every question under every arm."""
    made_from: str = ""
    """Identifies what a later wave asks."""


def waves_of(plan: RunPlan, shard: Shard) -> Iterator[Wave]:
    """Yield the waves of a shard in order. Take the next one only when this one has its rollouts and scores.

    Raises DamagedFile when they are not what is on record.
    """
    ends = plan.config.sampling.wave_ends
    wave = Wave(shard=shard)
    yield wave
    counts: _Counts = {}
    for number, (begin, end) in enumerate(itertools.pairwise(ends), 1):
        counts = _counted(plan, wave.shard.index, counts)
        asked = _ask(plan, shard, counts, begin, end)
        if asked.is_empty():
            return
        rollouts = int(asked["arm_ids"].list.len().sum()) * (end - begin)
        own = Shard(index=shard.index + number * WAVE_STEP, num_questions=asked.height, num_rollouts=rollouts)
        wave = Wave(shard=own, asked=asked, made_from=_digest(asked))
        yield wave


def is_generated(plan: RunPlan, wave: Wave) -> bool:
    """Return whether the rollouts of ``wave`` are published, intact, and those that it asks for."""
    if rollouts_finished(plan.paths, wave.shard, wave.made_from):
        return True
    if wave.asked is None:
        return False
    # a downloaded run has no record of what its waves were made from
    path = plan.paths.rollouts(wave.shard.index)
    return rollouts_finished(plan.paths, wave.shard) and read_wave(path, [*ROLLOUT_KEY]).equals(keys_of(wave.asked))


def keys_of(asked: pl.DataFrame) -> pl.DataFrame:
    """Return ROLLOUT_KEY of the rollouts that ``asked`` asks for, in their order."""
    return (
        asked.select("example_id", arm_id="arm_ids", sample_index=pl.int_ranges("first_sample", "end_sample"))
        .explode("arm_id")
        .explode("sample_index")
        .select(pl.col(name).cast(ROLLOUT_SCHEMA[name]) for name in ROLLOUT_KEY)
    )


def begin_wave(plan: RunPlan, wave: Wave) -> None:
    """Publish what a later wave asks, before it is generated. What other scores once asked for is removed."""
    path = plan.paths.questions(wave.shard.index)
    if wave.asked is None or is_finished(path, wave.made_from):
        return
    _forget_waves(plan, shard_of(wave.shard.index), wave_of(wave.shard.index))
    publish_parquet(wave.asked, path)
    record_published(path, made_from=wave.made_from)


def settle(plan: RunPlan, last: Shard) -> None:
    """Record that ``last`` is the last wave of its shard, and remove what other scores once asked for after it."""
    waves = wave_of(last.index) + 1
    shard = shard_of(last.index)
    _forget_waves(plan, shard, waves)
    for later in range(waves, len(plan.config.sampling.wave_ends)):
        plan.paths.journal(shard + later * WAVE_STEP).unlink(missing_ok=True)
    publish_json(asdict(Settled(waves=waves)), plan.paths.settled(shard))


def _forget_waves(plan: RunPlan, shard: int, first: int) -> None:
    """Remove the waves of a shard from number ``first`` on; not their journals, which may be asked for again."""
    root = plan.paths.root
    plan.paths.settled(shard).unlink(missing_ok=True)
    folders = [root / "rollouts", *root.glob("scores*"), plan.paths.state / WAVES]
    for wave in range(first, len(plan.config.sampling.wave_ends)):
        for path in (folder / f"{shard_stem(shard + wave * WAVE_STEP)}.parquet" for folder in folders):
            path.unlink(missing_ok=True)
            forget_published(path)


def find_remaining(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    """Return what is left of ``shards``, from the checked files in the run directory."""
    if plan.has_rule:
        return _remaining_waves(plan, shards)
    to_generate = [shard for shard in shards if not rollouts_finished(plan.paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not scores_finished(plan, shard)]
    return RemainingShards(to_generate=to_generate, to_score=to_score, generated=generated)


def _remaining_waves(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    """A wave that lacks its scores may be followed by another, so its shard is one to generate."""
    to_generate, generated, begun = [], [], 0
    for shard in shards:
        rollouts = waves = 0
        for wave in waves_of(plan, shard):
            if not is_generated(plan, wave) or not scores_finished(plan, wave.shard):
                to_generate.append(shard)
                begun += rollouts
                break
            rollouts, waves = rollouts + wave.shard.num_rollouts, waves + 1
        else:
            settled = try_read_record(plan.paths.settled(shard.index), Settled)
            if settled is None or settled.waves != waves:
                to_generate.append(shard)
                begun += rollouts
            else:
                generated.append(replace(shard, num_rollouts=rollouts))
    return RemainingShards(to_generate=to_generate, to_score=[], generated=generated, rollouts_begun=begun)


def _counted(plan: RunPlan, index: int, before: _Counts) -> _Counts:
    """Return the counts of the groups of a wave, with those that they had before.

    A rollout without a reward is neither right nor wrong.
    """
    rollouts = read_wave(plan.paths.rollouts(index), ["rollout_id", "example_id", "arm_id"])
    scores = read_wave(plan.paths.scores(index), ["rollout_id", "reward"])
    right = is_right("reward", plan.config.right_at)
    counted = (
        rollouts.join(scores, on="rollout_id", how="left", maintain_order="left")
        .group_by("example_id", "arm_id")
        .agg(right.sum().alias("right"), (~right).sum().alias("wrong"))
    )
    found: _Counts = {}
    for example_id, arm_id, now_right, now_wrong in counted.iter_rows():
        was_right, was_wrong = before.get((example_id, arm_id), (0, 0))
        found[example_id, arm_id] = was_right + now_right, was_wrong + now_wrong
    return found


def _ask(plan: RunPlan, shard: Shard, counts: _Counts, begin: int, end: int) -> pl.DataFrame:
    """Return what the next wave asks, in the order of the shard's questions and of the arms."""
    rule = StoppingRule.parse(plan.config.sampling.sample_until or "")
    still_open = {group for group, (right, wrong) in counts.items() if rule.holds(right, wrong) is None}
    questions = plan.questions.select(*QUESTION_SCHEMA).slice(shard.index * plan.shard_size, shard.num_questions)
    arms = [
        [arm.id for arm in plan.arms.arms if (example_id, arm.id) in still_open]
        for example_id in questions["example_id"]
    ]
    asked = questions.with_columns(
        pl.Series("arm_ids", arms, ASKED_SCHEMA["arm_ids"]),
        first_sample=pl.lit(begin, pl.Int32),
        end_sample=pl.lit(end, pl.Int32),
    )
    return asked.filter(pl.col("arm_ids").list.len() > 0).select(*ASKED_SCHEMA)


def _digest(asked: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for row in asked.iter_rows():
        digest.update(json.dumps(row, ensure_ascii=False).encode())
    return digest.hexdigest()[:16]
