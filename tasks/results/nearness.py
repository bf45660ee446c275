"""Which earlier run is nearest to one that is planned. A run with other weights tells nothing of it, unless they are of
the same directory (with an adapter, or written anew), or of another step beside it, as step-900 is beside step-1000.

The first of these that holds for one run and not for another decides; of equal runs the newest is nearest.

lengths of completions: the same weights; the same arms; the same dataset; the same sampling; enough rollouts
speed: the same weights; the same engine settings; the same GPUs, by name; the same arms and sampling; enough rollouts

A speed is of the same profile and of engines on as many GPUs, and never of GPUs with another name. Lengths that were
drawn for a benchmark are not the model's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tasks.plan.run_config import DatasetSource
from tasks.plan.run_plan import RunPlan
from tasks.results.earlier_runs import EarlierRun, Speed

ENOUGH = 4
"""A run has enough rollouts when it has at least this part (1/4) of those that are planned: a short run fills no
engine, and its mean length is less certain."""
_STEP = re.compile(r"\d+$")
_SHAPE = ("tensor_parallel_size", "pipeline_parallel_size", "nodes_per_replica", "replicas_per_gpu")
_NO_SPEED = ("profile", "shard_size", "versions", "replicas")
_NO_QUESTIONS = ("questions", "shuffle_seed", "streaming")


Likeness = Callable[[RunPlan, EarlierRun], dict[str, bool]]


@dataclass(frozen=True, kw_only=True)
class Near:
    """The nearest run, and what it has in common with the plan, in words."""

    run: EarlierRun
    same: tuple[str, ...]
    other: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NearSpeed(Near):
    """The run with the nearest speed."""

    speed: Speed


def nearest_lengths(plan: RunPlan, earlier: Sequence[EarlierRun]) -> Near | None:
    """Return the run by whose completions those of ``plan`` can be foretold; None without one."""
    usable = [run for run in earlier if run.mean_tokens is not None and run.sampling.lengths is None]
    return _nearest(plan, usable, _of_lengths)


def nearest_size(plan: RunPlan, earlier: Sequence[EarlierRun]) -> Near | None:
    """Return the run by whose files the size of ``plan``'s can be foretold: it stores as much with each token."""
    sampling = plan.config.sampling
    stored = (sampling.top_logprobs, sampling.sampling_mask, sampling.routed_experts)
    usable = [run for run in earlier if run.bytes_per_rollout and run.mean_tokens and run.sampling.stored == stored]
    return _nearest(plan, usable, _of_lengths)


def nearest_speed(plan: RunPlan, earlier: Sequence[EarlierRun], device: str | None) -> NearSpeed | None:
    """Return the run by whose speed that of ``plan`` can be foretold on ``device``; None without one.

    ``device`` is None where it is not known, as for several nodes.
    """
    speeds = {run.root: speed for run in earlier if (speed := run.speed(earlier)) is not None}

    def is_usable(run: EarlierRun) -> bool:
        tested, own = run.tested, plan.tested
        return (
            run.root in speeds
            and tested.get("profile") == own["profile"]
            and tested.get("generation", own["generation"]) == own["generation"]
            and all(tested.get(name, 1) == own.get(name, 1) for name in _SHAPE)
            and (device is None or speeds[run.root].device in (None, device))
        )

    def likeness(plan: RunPlan, run: EarlierRun) -> dict[str, bool]:
        like = _of_lengths(plan, run)
        return {
            "settings": _without(run.tested, _NO_SPEED) == _without(plan.tested, _NO_SPEED),
            "device": device is not None and speeds[run.root].device == device,
            **{name: like[name] for name in ("arms", "sampling")},
        }

    near = _nearest(plan, [run for run in earlier if is_usable(run)], likeness)
    if near is None:
        return None
    return NearSpeed(run=near.run, same=near.same, other=near.other, speed=speeds[near.run.root])


def _nearest(plan: RunPlan, earlier: Sequence[EarlierRun], likeness: Likeness) -> Near | None:
    known = [(run, same) for run in earlier if (same := _same_model(plan, run)) is not None]
    if not known:
        return None

    def order(item: tuple[EarlierRun, bool]) -> tuple[bool | float, ...]:
        run, same = item
        enough = run.rollouts * ENOUGH >= plan.num_rollouts
        return (same, *likeness(plan, run).values(), enough, run.changed)

    run, same = max(known, key=order)
    like = {"model": same, **likeness(plan, run)}
    return Near(
        run=run,
        same=tuple(name for name, is_same in like.items() if is_same),
        other=tuple(name for name, is_same in like.items() if not is_same),
    )


def _of_lengths(plan: RunPlan, run: EarlierRun) -> dict[str, bool]:
    # a run of an earlier version lacks what came later
    dataset, usual = (source.model_dump(mode="json") for source in (plan.config.dataset, DatasetSource()))
    return {
        "arms": run.comparable.get("arms") == plan.comparable["arms"],
        "dataset": _without(usual | run.dataset, _NO_QUESTIONS) == _without(dataset, _NO_QUESTIONS),
        "sampling": _lengths_of(run.comparable) == _lengths_of(plan.comparable),
    }


def _same_model(plan: RunPlan, run: EarlierRun) -> bool | None:
    """Return whether the run has the weights of ``plan``; None when they are not of the same training either."""
    if run.comparable.get("model") == plan.comparable["model"]:
        return True
    own, other = PurePath(plan.model.path), PurePath(run.model_path)
    names = [_STEP.sub("N", path.name) for path in (own, other)]
    is_step = own.parent == other.parent and names[0] == names[1]
    return False if is_step else None


def _lengths_of(comparable: Mapping[str, Any]) -> Any:
    """Return the sampling without what changes no completion."""
    sampling = comparable.get("sampling")
    return _without(sampling, ("samples_per_arm", "lengths")) if isinstance(sampling, dict) else sampling


def _without(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
