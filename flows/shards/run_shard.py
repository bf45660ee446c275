"""A shard of one of the runs that a flow collects together."""

from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from typing import NamedTuple

from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard


class RunShard(NamedTuple):
    """A shard, and the plan of its run."""

    plan: RunPlan
    shard: Shard


def in_turn(shards: Sequence[tuple[RunPlan, Sequence[Shard]]]) -> Iterator[RunShard]:
    """Yield the shards of all runs: the first of each, then the second of each, and so on.

    So the runs of one engine share its batches all the time, and answer the same questions at the same time.
    """
    for row in zip_longest(*([RunShard(plan, shard) for shard in own] for plan, own in shards)):
        yield from (item for item in row if item is not None)


def by_weights(shards: Sequence[tuple[RunPlan, Sequence[Shard]]]) -> Iterator[RunShard]:
    """Yield the shards of the runs of one checkpoint after those of another, and in turn within each."""
    for _, group in groupby(shards, key=lambda own: own[0].model.path):
        yield from in_turn(list(group))
