"""Engine failures under the real flow: Prefect retries, and the pool decides with which settings and how often."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.shards.stages import generate_shard
from tasks.errors import EngineCrashed
from tasks.generation.rung_state import load_rung, save_rung
from tasks.generation.shard_queue import ShardResult
from tasks.plan.prompts import request_seed
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.plan.shards import Shard
from tests.support.fake_profile import FAKE_PROFILE
from tests.support.harvest_command import Outcome, harvest
from tests.support.prefect_worker import Api

pytestmark = pytest.mark.slow

PARAMETERS: dict[str, Any] = {"dataset": "demo", "questions": 12, "shard_size": 4, "max_tokens": 16}
ROLLOUTS = 12 * 8


def write_profile(folder: Path, backend: str) -> Path:
    path = folder / "fake.toml"
    path.write_text(FAKE_PROFILE.replace("FakeEngine", backend), encoding="utf-8")
    return path


def collect(profile: Path, *options: str, **variables: str) -> Outcome:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in PARAMETERS.items()]
    runs_dir = profile.parent / "runs"
    outcome = harvest("run", "--profile", profile, "--runs-dir", runs_dir, "--json", *given, *options, **variables)
    assert outcome.code == 0, outcome.stderr
    return outcome


def read_once(report: dict[str, Any], folder: str) -> pl.DataFrame:
    rows = pl.read_parquet(Path(report["run_dir"]) / folder / "*.parquet")
    assert rows["rollout_id"].n_unique() == rows.height == ROLLOUTS
    return rows


def test_an_out_of_memory_failure_is_retried_shown_and_remembered_and_a_request_that_kills_its_engine_is_an_error_row(
    tmp_path: Path, prefect_api: str
) -> None:
    profile = write_profile(tmp_path, "CrowdedEngine")
    plan = plan_run(config_from_parameters({"profile": str(profile), **PARAMETERS}), tmp_path / "runs")
    # what was remembered is forgotten
    save_rung(plan, 2)
    # two questions of eight arms fit, four do not
    variables = {"PREFECT_API_URL": prefect_api, "MEMORY_LIMIT": "23"}
    outcome = collect(profile, "--name=crowded", "--forget-oom-rung", **variables)
    assert "of the OOM ladder" not in outcome.stderr
    report = outcome.report
    assert set(read_once(report, "rollouts")["oom_rung"]) == {1}
    assert report["num_errors"] == 0
    assert report["rollouts_per_rung"] == {"1": ROLLOUTS}
    [change] = report["oom_ladder"]
    assert (change["from_rung"], change["to_rung"], change["kind"], change["phase"]) == (0, 1, "device", "run")
    assert change["settings"]["question_batch_size"] == 2

    api, run_id = Api(url=prefect_api), report["run_id"]
    [flow_run] = api.flow_runs_of(run_id)
    task_runs = api.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
    attempts = [run["run_count"] for run in task_runs if run["name"].startswith("shard ") and "·" in run["name"]]
    # only the shards that the engine had are tried twice; the waiting one has lost nothing
    assert len(attempts) == 3
    assert max(attempts) == 2
    [event] = api.events("harvest.oom", f"harvest.run.{run_id}")
    assert "CUDA out of memory" in event["payload"]["message"]
    assert event["payload"]["question_batch_size"] == 2
    table = api.artifacts(flow_run["id"])["harvest-oom-rungs"]
    assert f"{{'1': {ROLLOUTS}}}" in table["description"]
    assert '"question batch": 2' in table["data"]
    assert load_rung(plan) == 1

    # the next run, in which a request kills its engine
    key = (plan.questions["example_id"][5], plan.arms.arms[2].id, 0)
    seeds = str(request_seed(0, *key))
    later = collect(profile, "--name=poisoned", POISON_SEEDS=seeds, **variables)
    assert "beginning at rung 1 of the OOM ladder (question batch 2)" in later.stderr
    report = later.report
    assert (report["rollouts_per_rung"], report["oom_ladder"]) == ({"1": ROLLOUTS}, [])
    assert report["num_errors"] == 1
    [told] = report["errors"]
    assert told == {"error": "the engine died each time that it had this request", "count": 1}
    # among others, with its question, alone
    assert report["generation"]["restarts"] == 3
    failed = read_once(report, "rollouts").filter(pl.col("error").is_not_null())
    assert failed.select("example_id", "arm_id", "sample_index").rows() == [key]
    scores = read_once(report, "scores").filter(pl.col("reward").is_null())
    assert scores["rollout_id"].to_list() == failed["rollout_id"].to_list()
    [event, *_] = api.events("harvest.replica.restarted", f"harvest.run.{report['run_id']}")
    assert "signal 9" in event["payload"]["message"]


class DyingPool:
    """Stands for a pool that loses its engine ``deaths`` times before it has made a shard."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths

    def generate(self, plan: None, shard: Shard, *, log: object) -> ShardResult:
        if self.deaths:
            self.deaths -= 1
            raise EngineCrashed("boom")
        return ShardResult(index=shard.index, num_rollouts=shard.num_rollouts, num_errors=0, num_resumed=0)


def test_prefect_retries_for_as_long_as_the_pool_goes_on(prefect_api: str) -> None:
    # twenty requests that kill the engine, each found out after three deaths
    pool = DyingPool(60)

    @flow
    def generate() -> ShardResult:
        return generate_shard(pool, None, Shard(index=0, num_questions=1, num_rollouts=8))  # type: ignore[arg-type]

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        assert generate().num_rollouts == 8
    assert pool.deaths == 0
