"""Declares each stage of the pipeline as a Prefect task: name, retries and time limit. ``tasks`` does the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Cancelled

from flows.reporting.progress import log_and_print
from flows.server.aws_credentials import transfer_of_flow_run
from flows.server.transfer_retries import DELAYS_SECONDS, transfer_delays, wait_before_retry
from flows.shards.shard_waves import ShardWaves
from tasks.comparison.baseline import obtain_baseline
from tasks.comparison.equivalence import validate_in_subprocess
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.noise_floor import find_noise_floor
from tasks.comparison.verdict import Tier
from tasks.errors import HarvestError, PoolClosed
from tasks.generation.shard_queue import ShardResult
from tasks.node.preflight import run_preflight
from tasks.plan.questions import find_duplicates
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.plan.shards import shard_dataset as _shard_dataset
from tasks.plan.waves import finish_scores
from tasks.records import RunPaths
from tasks.results.run_report import RunReport
from tasks.results.summary_subprocess import summarize_in_subprocess
from tasks.storage.destination import CHECK_ATTEMPTS
from tasks.storage.published import shard_files
from tasks.storage.score_sets import set_like
from tasks.storage.transfer_errors import TransferStoppedError
from tasks.storage.upload import RunUploader
from tasks.storage.upload_record import UploadRecord

ENGINE_RETRIES = 1_000_000
"""No limit, because the pool decides when to give up. Each death of an engine fails all of its shards in flight, and it
takes two deaths to find a request that kills the engine, so no number would be large enough."""
CANCELLED = "The flow run ended before. The same run again goes on where this one stopped."
"""Message of a shard's task run that did not fail, but was ended with its flow run."""


def is_retryable(task: Any, task_run: Any, state: Any) -> bool:
    """Retry a task only for an error that ``tasks.errors`` calls retryable."""
    try:
        state.result()
    except HarvestError as error:
        return error.retryable
    except Exception:
        return False
    return False


@task(name="shard dataset", task_run_name="shard dataset", cache_policy=NO_CACHE, persist_result=False)
def shard_dataset(plan: RunPlan) -> list[Shard]:
    if (found := find_duplicates(plan.questions)).repeated:
        log_and_print(f"duplicate questions: {found}")
    return _shard_dataset(plan)


@task(name="preflight", task_run_name="preflight", cache_policy=NO_CACHE, persist_result=False)
def preflight(plans: Sequence[RunPlan], upload_url: str | None) -> None:
    run_preflight(plans[0], upload_url, transfer_of_flow_run(attempts=CHECK_ATTEMPTS), beside=plans[1:])


@task(
    name="generate shard",
    task_run_name="shard {shard.index} · {shard.num_rollouts} rollouts",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=ENGINE_RETRIES,
    retry_condition_fn=is_retryable,
)
def generate_shard(waves: ShardWaves, plan: RunPlan, shard: Shard) -> "ShardResult | State[Any] | None":
    try:
        return waves.generate(plan, shard, log=get_run_logger().info)
    except PoolClosed:
        return Cancelled(message=CANCELLED)


@task(
    name="score shard",
    task_run_name="score shard {shard.index}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def score_shard(plan: RunPlan, shard: Shard) -> None:
    for told in finish_scores(plan, shard):
        get_run_logger().info("%s", told)


@task(name="baseline", task_run_name="baseline", cache_policy=NO_CACHE, persist_result=False)
def baseline(plan: RunPlan, name: str) -> Path:
    found = obtain_baseline(name, plan, log_and_print, transfer_of_flow_run())
    # a noise floor that cannot be read is refused here, before hours of work
    find_noise_floor(plan.paths.root, plan.paths.root.parent)
    return found


@task(name="validate", task_run_name="validate", cache_policy=NO_CACHE, persist_result=False)
def validate(run_dir: Path, scores: str, baseline_dir: Path, require: Tier, epsilon: float) -> EquivalenceReport:
    folders = (set_like(baseline_dir, run_dir, scores), scores)
    floor = find_noise_floor(run_dir, run_dir.parent)
    return validate_in_subprocess(
        run_dir, baseline_dir, require=require, epsilon=epsilon, noise_floor=floor, scores=folders
    )


@task(name="summarize", task_run_name="summarize", cache_policy=NO_CACHE, persist_result=False)
def summarize(run_dir: Path, scores: str) -> RunReport:
    return summarize_in_subprocess(run_dir, scores)


@task(
    name="upload shard",
    task_run_name="upload shard {shard.index}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS_SECONDS),
    retry_condition_fn=is_retryable,
)
def upload_shard(plan: RunPlan, shard: Shard, url: str) -> "State[Any] | None":
    # another set of scores than the run's own stays here
    paths = RunPaths(root=plan.paths.root)
    files = [
        paths.questions(shard.index),
        *shard_files(paths.rollouts(shard.index)),
        *shard_files(paths.scores(shard.index)),
    ]
    try:
        wait_before_retry()
        with RunUploader(paths.root, url, transfer=transfer_of_flow_run(**transfer_delays())) as uploader:
            uploader.upload_files(str(file.relative_to(paths.root)) for file in files)
    except TransferStoppedError:
        return Cancelled(message=CANCELLED)
    return None


@task(
    name="upload",
    task_run_name="upload",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS_SECONDS),
    retry_condition_fn=is_retryable,
)
def upload(run_dir: Path, url: str) -> UploadRecord:
    wait_before_retry()
    with RunUploader(run_dir, url, transfer=transfer_of_flow_run(**transfer_delays())) as uploader:
        return uploader.finish()
