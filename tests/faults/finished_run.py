"""What a flow does with a run after its rollouts are generated, without Prefect."""

import polars as pl

from tasks.files import publish_parquet
from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import scores_made_from, shard_dataset
from tasks.plan.waves import find_remaining
from tasks.results.summary import summarize_run
from tasks.results.summary_subprocess import publish_page_and_card
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import record_published, recorded_path
from tasks.storage.run_files import write_manifest


def finish(plan: RunPlan) -> None:
    """Score, summarize and list the files of a run whose rollouts are there."""
    paths = plan.paths
    for shard in find_remaining(plan, shard_dataset(plan)).to_score:
        score_shard(paths.rollouts(shard.index), scores := paths.scores(shard.index))
        record_published(scores, made_from=scores_made_from(paths, shard.index, load_scorer("gsm8k")))
    if not paths.telemetry.exists():
        publish_parquet(pl.DataFrame(schema=TELEMETRY_SCHEMA), paths.telemetry, recorded_path)
    summarize_run(paths.root)
    assert publish_page_and_card(paths.root) == []
    write_manifest(paths.root)
