"""Samples in waves: which groups of a shard get more, by the scores of the waves before, and what is left of a run.

Without a rule a shard has one wave. With one, a later wave asks for the next samples of those groups of the wave before
for which the rule does not hold. What it asks follows from the configuration and the scores alone, so it is made anew
each time; its digest stands with the rollouts that were made of it.

Once a shard is settled, its rollouts are what they are: it is only scored, also where its scores are lost, and a scorer
gives others now. ``group_pass_rates`` sees that such scores did not decide. Until then scores decide, and a wave for
which today's do not ask is set aside.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl

from tasks.files import publish_json, publish_parquet, set_aside
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import (
    RemainingShards,
    Shard,
    is_finished,
    make_scores,
    published_rows,
    rollouts_finished,
    scores_finished,
)
from tasks.plan.stopping_rule import StoppingRule
from tasks.records import (
    QUESTION_SCHEMA,
    ROLLOUT_KEY,
    ROLLOUT_SCHEMA,
    WAVE_STEP,
    WAVES,
    shard_label,
    shard_of,
    wave_of,
)
from tasks.scoring.score import is_right
from tasks.scoring.score_shard import describe_scores
from tasks.storage.published import forget_published, has_own_record, read_wave, record_published
from tasks.storage.run_files import Settled, settled_waves

logger = logging.getLogger(__name__)

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
    """Publish what a later wave asks, before it is generated. What other scores once asked for is set aside.

    The waves after it may be those for which its scores will ask.
    """
    path = plan.paths.questions(wave.shard.index)
    # a kill must not leave new rollouts with the waves that followed others
    plan.paths.settled(shard_of(wave.shard.index)).unlink(missing_ok=True)
    if wave.asked is None or is_finished(path, wave.made_from):
        return
    _forget_wave(plan, wave.shard.index)
    publish_parquet(wave.asked, path)
    record_published(path, made_from=wave.made_from)


def settle(plan: RunPlan, last: Shard) -> None:
    """Record that ``last`` is the last wave of its shard, and set aside what other scores once asked for after it."""
    waves = wave_of(last.index) + 1
    shard = shard_of(last.index)
    for index in (shard + later * WAVE_STEP for later in range(waves, len(plan.config.sampling.wave_ends))):
        _forget_wave(plan, index)
        plan.paths.journal(index).unlink(missing_ok=True)
    publish_json(asdict(Settled(waves=waves)), plan.paths.settled(shard))


def _forget_wave(plan: RunPlan, index: int) -> None:
    """Set aside the rollouts of a later wave, and remove what was made of them.

    Its journal stays, as it may be asked for again.
    """
    root, rollouts = plan.paths.root, plan.paths.rollouts(index)
    if rollouts.is_file():
        aside = set_aside(rollouts).name
        logger.warning("%s was asked for by other scores than there are now. It is now %s", rollouts, aside)
    forget_published(rollouts)
    for folder in (*root.glob("scores*"), plan.paths.state / WAVES):
        (folder / rollouts.name).unlink(missing_ok=True)
        forget_published(folder / rollouts.name)


def find_remaining(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    """Return what is left of ``shards``, from the checked files in the run directory."""
    if plan.has_rule:
        return _remaining_waves(plan, shards)
    to_generate = [shard for shard in shards if not rollouts_finished(plan.paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not scores_finished(plan, shard)]
    return RemainingShards(to_generate=to_generate, to_score=to_score, generated=generated)


def _remaining_waves(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    to_generate, to_score, generated, begun = [], [], [], 0
    for shard in shards:
        waves, is_whole = _settled(plan, shard), True
        is_scored = waves is not None and all(scores_finished(plan, wave) for wave in waves)
        if waves is None:
            waves, is_whole = _begun(plan, shard)
        rollouts = sum(wave.num_rollouts for wave in waves)
        if not is_whole:
            to_generate.append(shard)
            begun += rollouts
            continue
        generated.append(replace(shard, num_rollouts=rollouts))
        if not is_scored:
            to_score.append(generated[-1])
    return RemainingShards(to_generate=to_generate, to_score=to_score, generated=generated, rollouts_begun=begun)


def _settled(plan: RunPlan, shard: Shard) -> list[Shard] | None:
    """Return the waves of a settled shard; None for one that is not settled, or lacks rollouts."""
    known, ends = settled_waves(plan.paths.root, shard.index), plan.config.sampling.wave_ends
    if known is None or known > len(ends) or not rollouts_finished(plan.paths, shard):
        return None
    waves = [shard]
    for wave, (begin, end) in enumerate(itertools.pairwise(ends[:known]), 1):
        index = shard.index + wave * WAVE_STEP
        path = plan.paths.rollouts(index)
        rows = published_rows(path)
        if rows is None or not (has_own_record(path) or _are_samples(path, begin, end)):
            return None
        waves.append(replace(shard, index=index, num_rollouts=rows))
    return waves


def _are_samples(path: Path, begin: int, end: int) -> bool:
    samples = read_wave(path, ["sample_index"])["sample_index"]
    return bool(samples.is_between(begin, end, closed="left").all())


def _begun(plan: RunPlan, shard: Shard) -> tuple[list[Shard], bool]:
    """Return the finished waves of a shard, and whether no other one is asked for.

    A wave that lacks its scores may be followed by another.
    """
    waves: list[Shard] = []
    for wave in waves_of(plan, shard):
        if not is_generated(plan, wave) or not scores_finished(plan, wave.shard):
            return waves, False
        waves.append(wave.shard)
    return waves, True


def finish_scores(plan: RunPlan, shard: Shard) -> Iterator[str]:
    """Make the scores that a shard of ``RemainingShards.to_score`` lacks, and yield a line about each."""
    first = replace(shard, num_rollouts=shard.num_questions * plan.rollouts_per_question)
    if not plan.has_rule:
        yield _score(plan, shard.index)
    elif waves := _settled(plan, first):
        for wave in waves:
            if not scores_finished(plan, wave):
                yield _score(plan, wave.index)
    else:
        # it has all for which its scores ask, and only the record of that is missing
        settle(plan, _begun(plan, first)[0][-1])


def _score(plan: RunPlan, index: int) -> str:
    return f"shard {shard_label(index)}: {describe_scores(make_scores(plan, index))}"


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
