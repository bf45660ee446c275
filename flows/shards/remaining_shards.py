"""Which shards of a run still have to be generated or scored."""

from dataclasses import dataclass

from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, is_finished, rollouts_finished, scores_made_from
from tasks.scoring.scorers import load_scorer


@dataclass(frozen=True, kw_only=True)
class RemainingShards:
    """The work that is left of a run; false when nothing is left."""

    to_generate: list[Shard]
    to_score: list[Shard]
    generated: list[Shard]
    """The shards that have their rollouts, scored or not."""

    def __bool__(self) -> bool:
        return bool(self.to_generate or self.to_score)


def find_remaining(plan: RunPlan, shards: list[Shard]) -> RemainingShards:
    """Return what is left of ``shards``, from the checked files in the run directory."""
    to_generate = [shard for shard in shards if not rollouts_finished(plan.paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not _is_scored(plan, shard)]
    return RemainingShards(to_generate=to_generate, to_score=to_score, generated=generated)


def _is_scored(plan: RunPlan, shard: Shard) -> bool:
    paths, index = plan.paths, shard.index
    made_from = scores_made_from(paths, index, load_scorer(plan.config.scorer))
    return is_finished(paths, "scores", index, paths.scores(index), made_from)
