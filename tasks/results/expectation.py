"""What a run, or several on the same engines, will take: rollouts, tokens, time, disk and cost, and how that is known.

What is finished is not counted, so that the same command again expects the rest. Where no earlier run tells, the length
of completions and the size on disk are guesses that are called so, and time and cost are not known.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from tasks.generation.journal import read_journal
from tasks.node.gpu_selection import device_of
from tasks.node.preflight import USUAL_COMPLETION, bytes_per_token
from tasks.node.prompt_check import find_prompts
from tasks.plan.output_lengths import OutputLengths
from tasks.plan.run_plan import RunPlan
from tasks.records import shard_index, shard_indices, shard_of
from tasks.results.earlier_runs import EarlierRun, read_earlier
from tasks.results.expected_samples import samples_per_group
from tasks.results.finished_run import planned_shards
from tasks.results.nearness import Near, nearest_lengths, nearest_size, nearest_speed
from tasks.results.run_state import published_by_wave
from tasks.scoring.scorers import load_scorer
from tasks.storage.run_files import settled_waves
from tasks.storage.score_sets import own_scorer


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a value is known."""

    kind: Literal["run", "sampling", "guess", "unknown"]
    """Of an earlier run; of drawn lengths; a guess; or not at all."""
    run: str | None = None
    """The earlier run: its id, below a benchmark's directory if that made it."""
    rollouts: int | None = None
    """How many that run had."""
    same: tuple[str, ...] = ()
    """What it has in common with the run to come."""
    other: tuple[str, ...] = ()
    """What it has not."""
    note: str = ""
    """What else must be known, in words."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is left to do, and what it will take. ``most`` is with every completion as long as max_tokens."""

    rollouts: int
    """Where groups stop by a rule: what the pass rates of an earlier run let expect, without one the least."""
    rollouts_most: int
    rollouts_by: str | None
    """The earlier run whose pass rates tell; None where the number is fixed, or no run tells."""
    rollouts_finished: int
    """Made before."""
    prompt_tokens: int | None
    completion_tokens: int
    completion_tokens_most: int
    tokens_from: Source
    seconds: float | None
    """From the start of the first engine to the last rollout; None when the speed is not known."""
    seconds_most: float | None
    start_seconds: float | None
    """The part of it in which engines start."""
    tokens_per_s: float | None
    """Completion tokens of all engines while they generate."""
    speed_from: Source
    disk_bytes: int
    disk_bytes_most: int
    disk_from: Source
    gpus: int
    gpu_hour_usd: float | None
    """The profile's price."""
    cost_usd: float | None
    """None without a speed, a price or a GPU."""
    cost_usd_most: float | None


def expect(plans: Sequence[RunPlan], *, nodes: int = 1, mean_tokens: float | None = None) -> Expected:
    """Return what the rest of ``plans`` will take, which differ in their policies only. Raises ConfigError.

    ``nodes`` are those of a Ray cluster. ``mean_tokens`` is the mean completion, in tokens, that the user knows of.
    """
    plan = plans[0]
    profile, most = plan.profile, plan.config.sampling.max_tokens
    earlier = read_earlier(plan.paths.root.parent, plan.model.tokenizer_digest)
    near = nearest_lengths(plan, earlier)
    mean, tokens_from = _length(plan, near, mean_tokens)
    found = _samples(plan, earlier)
    samples, by = found or (plan.config.sampling.samples_per_arm, None)
    rests = [_rest(each, samples) for each in plans]
    finished, left, left_most = (sum(getattr(rest, name) for rest in rests) for name in ("finished", "left", "most"))
    lengths = find_prompts(plan).lengths
    size, disk_from = _size(plan, nearest_size(plan, earlier))
    start, rate, speed_from = _speed(plan, earlier, nodes)
    gpus = profile.gpus * nodes

    def seconds(tokens: float) -> float | None:
        return None if rate is None or start is None else start + tokens / rate if left_most else 0.0

    def cost(tokens: float) -> float | None:
        taken, price = seconds(tokens), profile.gpu_hour_usd
        return None if taken is None or price is None or not gpus else taken * gpus / 3600 * price

    return Expected(
        rollouts=left,
        rollouts_most=left_most,
        rollouts_by=by,
        rollouts_finished=finished,
        prompt_tokens=None if lengths is None else round(left * lengths.mean),
        completion_tokens=round(left * mean),
        completion_tokens_most=left_most * most,
        tokens_from=tokens_from,
        seconds=seconds(left * mean),
        seconds_most=seconds(left_most * most),
        start_seconds=start,
        tokens_per_s=rate,
        speed_from=speed_from,
        disk_bytes=round(left * mean * size),
        disk_bytes_most=round(left_most * most * size),
        disk_from=disk_from,
        gpus=gpus,
        gpu_hour_usd=profile.gpu_hour_usd,
        cost_usd=cost(left * mean),
        cost_usd_most=cost(left_most * most),
    )


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """Rollouts of a run."""

    finished: int
    """Published or in its journals, by the names of its files."""
    left: int
    """To expect yet."""
    most: int
    """That may come yet."""


def _rest(plan: RunPlan, samples: float) -> _Rest:
    """Return what is left of ``plan``, of whose groups each is expected to get ``samples``."""
    paths, left, most = plan.paths, 0, 0
    made = _made(plan)
    scale = samples / plan.config.sampling.samples_per_arm, plan.most_rollouts / plan.num_rollouts
    for shard in planned_shards(plan):
        # groups of a settled shard get no more samples, however few they have
        if settled_waves(paths.root, shard.index) is None:
            expected, at_most = (round(shard.num_rollouts * each) for each in scale)
            left += max(0, expected - made[shard.index])
            most += max(0, at_most - made[shard.index])
    return _Rest(finished=made.total(), left=left, most=most)


def _made(plan: RunPlan) -> Counter[int]:
    """Return how many rollouts of each shard are published or in its journals, by the names of its files."""
    paths, made = plan.paths, Counter[int]()
    if plan.has_rule:
        for index, rollouts in published_by_wave(paths.root).items():
            made[shard_of(index)] += rollouts
        for path in paths.journal(0).parent.glob("shard-*.jsonl"):
            with contextlib.suppress(ValueError):
                index = shard_of(shard_index(path.with_suffix(".parquet")))
                made[index] += len(read_journal(path, keep_rollouts=False).finished)
        return made
    published = {*shard_indices(paths.root / "rollouts")}
    for shard in planned_shards(plan):
        journaled = len(read_journal(paths.journal(shard.index), keep_rollouts=False).finished)
        made[shard.index] = shard.num_rollouts if shard.index in published else min(shard.num_rollouts, journaled)
    return made


def _samples(plan: RunPlan, earlier: Sequence[EarlierRun]) -> tuple[float, str] | None:
    """Return the expected samples of a group by the pass rates of a near run, and its name; None if none tells."""
    if not plan.has_rule:
        return None
    scorer = load_scorer(plan.config.scorer).name
    near = nearest_lengths(plan, [run for run in earlier if (own_scorer(run.root) or ("",))[0] == scorer])
    if near is None:
        return None
    samples = samples_per_group(near.run.root, plan.config.sampling, plan.config.right_at)
    return None if samples is None else (samples, near.run.name)


def _length(plan: RunPlan, near: Near | None, given: float | None) -> tuple[float, Source]:
    """Return the mean completion to expect, in tokens."""
    sampling = plan.config.sampling
    most = sampling.max_tokens
    if given is not None:
        return min(given, most), Source(kind="run", note="of the run that was named")
    if sampling.lengths is not None:
        return _mean_drawn(sampling.lengths, most), Source(kind="sampling", note="lengths are drawn")
    if near is None or near.run.mean_tokens is None:
        return most * USUAL_COMPLETION, Source(kind="guess", note=f"{USUAL_COMPLETION:.0%} of max_tokens")
    cut, former = near.run.truncation_rate, near.run.sampling.max_tokens or most
    note = f"{cut:.0%} were cut off at max_tokens {former:,}, so expect more" if cut and former < most else ""
    return min(near.run.mean_tokens, most), _source(near, note)


def _speed(plan: RunPlan, earlier: Sequence[EarlierRun], nodes: int) -> tuple[float | None, float | None, Source]:
    """Return the seconds of an engine's start and the completion tokens per second of all engines; None if unknown."""
    profile = plan.profile
    device = None if nodes > 1 else device_of(profile)
    near = nearest_speed(plan, earlier, device)
    if near is None:
        where = device or "these nodes"
        return None, None, Source(kind="unknown", note=f"of this model under profile {profile.name} on {where}")
    engines, former = profile.replicas * max(1, nodes // profile.engine.nodes_per_replica), near.speed.engines
    scaled = "" if former == engines else f"scaled from {former} to {engines} engines"
    return near.speed.start_seconds, near.speed.tokens_per_s * engines, _source(near, scaled)


def _mean_drawn(lengths: OutputLengths, most: int) -> float:
    """Return the mean of a lognormal length that is cut off at ``most`` tokens."""
    sigma, end = max(lengths.sigma, 1e-9), math.log(most / lengths.median)
    below = NormalDist().cdf((end - sigma**2) / sigma)
    return lengths.median * math.exp(sigma**2 / 2) * below + most * (1 - NormalDist().cdf(end / sigma))


def _size(plan: RunPlan, near: Near | None) -> tuple[float, Source]:
    """Return the bytes on disk of a completion token."""
    if near is None or near.run.bytes_per_rollout is None or not near.run.mean_tokens:
        each = bytes_per_token(plan)
        return each, Source(kind="guess", note=f"{each} bytes for each completion token")
    return near.run.bytes_per_rollout / near.run.mean_tokens, _source(near)


def _source(near: Near, note: str = "") -> Source:
    run = near.run
    return Source(kind="run", run=run.name, rollouts=run.rollouts, same=near.same, other=near.other, note=note)
