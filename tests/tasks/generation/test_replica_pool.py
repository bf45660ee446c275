"""The pool with real replica processes and a fake engine in them."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError, EngineStartError, HarvestError, StorageError
from tasks.generation.recovery import PoolEvent
from tasks.generation.replica_pool import ReplicaPool
from tasks.generation.rung_state import RungState
from tasks.generation.shard_queue import ShardResult
from tasks.node.gpu_selection import gpus_per_replica
from tasks.plan.prompts import request_seed
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.sampling import Sampling
from tasks.plan.shards import Shard, rollouts_finished, shard_dataset
from tests.support.fake_engines import StragglingEngine

pytestmark = pytest.mark.slow

PROFILE = """
name = "pool"
model = "demo"
question_batch_size = {batch}
replicas = {replicas}
replicas_per_gpu = {per_gpu}
start_timeout_s = {start_timeout}

[engine]
backend = "{backend}"
dtype = "float32"
tensor_parallel_size = {width}

[expect]
device = "{device}"
"""


def make_plan(
    folder: Path,
    *,
    batch: str = "4",
    replicas: int = 1,
    start_timeout: float = 120,
    backend: str = "tests.support.fake_engines:FakeEngine",
    device: str = "cpu",
    width: int = 1,
    per_gpu: int = 1,
) -> RunPlan:
    path = folder / "pool.toml"
    path.write_text(
        PROFILE.format(
            batch=batch,
            replicas=replicas,
            start_timeout=start_timeout,
            backend=backend,
            device=device,
            width=width,
            per_gpu=per_gpu,
        )
    )
    config = RunConfig(profile=str(path), shard_size=4, sampling=Sampling(max_tokens=16))
    return plan_run(config, folder / "runs")


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEST_CACHE_DIR", str(tmp_path / "caches"))


@dataclass(kw_only=True)
class Outcome:
    results: list[ShardResult] = field(default_factory=list)
    events: list[PoolEvent] = field(default_factory=list)
    error: HarvestError | None = None
    pool: ReplicaPool


def generate(*plans: RunPlan, watch: Callable[[ReplicaPool], None] = lambda pool: None, retry: bool = False) -> Outcome:
    """Generate all shards of ``plans``; the first failure ends it, with ``retry`` the first that cannot be retried.

    ``watch`` is called all the while.
    """
    work = [(plan, shard) for plan in plans for shard in shard_dataset(plan)]
    events: list[PoolEvent] = []
    rung = RungState(plans[0].paths.state / "oom.json")
    with ThreadPoolExecutor(16) as threads, ReplicaPool(plans, rung=rung, listener=events.append) as pool:
        futures = [threads.submit(_generate, pool, plan, shard, retry=retry) for plan, shard in work]
        outcome = Outcome(pool=pool, events=events)
        try:
            while not all(future.done() for future in futures):
                pool.pump(0.2)
                watch(pool)
            outcome.results = [future.result() for future in futures]
        except HarvestError as error:
            outcome.error = error
    return outcome


def _generate(pool: ReplicaPool, plan: RunPlan, shard: Shard, *, retry: bool) -> ShardResult:
    while True:
        try:
            return pool.generate(plan, shard)
        except HarvestError as error:
            if not (retry and error.retryable):
                raise


def test_shards_that_wait_for_their_longest_completions_do_not_empty_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_GATE", str(gate))
    plan = make_plan(tmp_path, backend="tests.support.fake_engines:StragglingEngine")
    seeds = [
        request_seed(0, question, arm.id, 0) for question in plan.questions["example_id"] for arm in plan.arms.arms
    ]
    num_others = sum(not StragglingEngine.is_straggler(seed) for seed in seeds)

    def watch(pool: ReplicaPool) -> None:
        # the stragglers hold up nothing, or this moment would not come
        if pool.rollouts_finished == num_others:
            gate.touch()

    outcome = generate(plan, watch=watch)
    assert outcome.error is None
    rows = pl.read_parquet(plan.paths.root / "rollouts" / "*.parquet", include_file_paths="shard")
    late = rows.filter([StragglingEngine.is_straggler(seed) for seed in rows["seed"]])
    assert late["shard"].n_unique() > 4
    assert late.height == len(seeds) - num_others
    others = rows.join(late, on="rollout_id", how="anti")
    assert late["created_at"].min() > others["created_at"].max()


def test_replicas_share_the_shards_on_gpus_of_their_own_and_start_together_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,9,11,13,15")
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_GATE", str(gate))
    monkeypatch.setenv("FAKE_START_SECONDS", "1")
    backend = "tests.support.fake_engines:GatedEngine"
    # a chosen batch would take all of this work at once; two replicas with a stated one: test_weight_switches.py
    plan = make_plan(tmp_path, batch='"auto"', replicas=3, width=2, device="cuda", backend=backend)
    seen: list[tuple[int, int]] = []

    def watch(pool: ReplicaPool) -> None:
        ready = sum(status.ready for status in pool.status())
        seen.append((ready, len(pool.status()) - ready))
        # nothing is finished before all are there, or the first would have done all the work
        if ready == 3:
            gate.touch()

    outcome = generate(plan, watch=watch)
    assert outcome.error is None
    assert [result.index for result in outcome.results] == list(range(8))
    assert all(rollouts_finished(plan.paths, shard) for shard in shard_dataset(plan))
    rows = pl.concat([pl.read_parquet(plan.paths.rollouts(index)) for index in range(8)])
    assert rows.select("example_id", "arm_id", "sample_index").n_unique() == rows.height == plan.num_rollouts
    assert outcome.pool.rollouts_finished == plan.num_rollouts
    assert outcome.pool.tokens_generated == rows["num_completion_tokens"].sum()
    assert outcome.pool.restarts == 0
    assert outcome.pool.engine_start_seconds > 0
    # (ready, starting): one alone, and then the other two together
    assert {starting for ready, starting in seen if ready == 0} == {1}
    assert (1, 2) in seen
    assert set(rows["engine_version"]) == {"fake on 5,7", "fake on 9,11", "fake on 13,15"}
    # an engine is loaded once for all shards of its replica
    assert len(list(plan.paths.logs.iterdir())) == 3
    # journals and process records are gone with what they were for
    assert not list(plan.paths.state.rglob("*.jsonl"))
    assert not list(plan.paths.state.glob("replica-*.pid.json"))
    assert outcome.events[0].kind == "started"


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        pytest.param(
            {"backend": "tests.support.fake_engines:None"},
            ConfigError,
            "'tests.support.fake_engines:None' cannot be loaded",
            id="no class",
        ),
        pytest.param(
            {"start_timeout": 0.5},
            EngineStartError,
            "was not ready after ",
            id="start takes too long",
        ),
        pytest.param(
            {"backend": "tests.support.fake_engines:BrokenEngine"},
            EngineStartError,
            "ValueError: this",
            id="cannot start",
        ),
    ],
)
def test_a_replica_that_cannot_start_ends_the_run_with_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    kind: type[HarvestError],
    told: str,
) -> None:
    if "start_timeout" in settings:
        monkeypatch.setenv("FAKE_NEVER_READY", "1")
    outcome = generate(make_plan(tmp_path, **settings))  # type: ignore[arg-type]
    assert type(outcome.error) is kind
    assert told in str(outcome.error)
    assert not outcome.error.retryable
    assert outcome.pool.status() == []


def test_a_state_that_cannot_be_written_is_a_storage_error_and_leaves_no_process(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    plan.paths.root.mkdir(parents=True)
    plan.paths.logs.touch()  # a file where the logs' folder should be
    outcome = generate(plan)
    assert isinstance(outcome.error, StorageError)
    assert "log" in str(outcome.error)
    assert outcome.pool.status() == []


def test_waking_a_closed_pool_writes_into_no_file_that_was_opened_since(tmp_path: Path) -> None:
    pool = ReplicaPool([make_plan(tmp_path)], rung=RungState(tmp_path / "oom.json"))
    pool.close()
    with contextlib.ExitStack() as stack:
        # the lowest free numbers are given out first: these files have those that the pool had
        files = [stack.enter_context((tmp_path / f"{number}.txt").open("w")) for number in range(8)]
        pool.wake()
        assert [Path(file.name).read_bytes() for file in files] == [b""] * len(files)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        pytest.param(None, [["0", "1"], ["2", "3"]], id="all"),
        pytest.param("4,5,6,7,8", [["4", "5"], ["6", "7"]], id="those that are visible"),
        pytest.param("GPU-a,GPU-b,GPU-c,GPU-d", [["GPU-a", "GPU-b"], ["GPU-c", "GPU-d"]], id="by their ids"),
        # a lock's name has no spaces: with them two runs would hold one GPU
        pytest.param("0, 1 ,2, 3", [["0", "1"], ["2", "3"]], id="with spaces"),
        pytest.param("0,1,2", "needs 4 GPUs", id="too few"),
        pytest.param("", "needs 4 GPUs", id="none"),
        pytest.param("0,1,2,0", "names 0 twice. Name each GPU once", id="one twice"),
    ],
)
@pytest.mark.parametrize("stages", [1, 2])
def test_each_replica_has_gpus_of_its_own(
    tmp_path: Path, visible: str | None, expected: list[list[str]] | str, stages: int
) -> None:
    plan = make_plan(tmp_path, replicas=2, width=2 // stages, device="cuda")
    engine = plan.profile.engine.model_copy(update={"pipeline_parallel_size": stages})
    plan = replace(plan, profile=plan.profile.model_copy(update={"engine": engine}))
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            gpus_per_replica(plan, visible)
    else:
        assert gpus_per_replica(plan, visible) == expected


def test_two_runs_share_the_engines_and_each_gets_its_own_rollouts_and_counters(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    other = replace(plan, paths=replace(plan.paths, root=plan.paths.root.with_name("other-0123456789")))
    outcome = generate(plan, other)
    assert outcome.error is None
    assert sum(result.num_rollouts for result in outcome.results) == 2 * plan.num_rollouts
    frames = []
    for each in (plan, other):
        assert all(rollouts_finished(each.paths, shard) for shard in shard_dataset(each))
        frame = pl.read_parquet(each.paths.root / "rollouts" / "*.parquet").sort("rollout_id")
        assert frame["run_id"].unique().to_list() == [each.run_id]
        counters = outcome.pool.counters_of(each.run_id)
        assert (counters.rollouts, counters.tokens) == (frame.height, frame["num_completion_tokens"].sum())
        assert None not in (counters.first_admitted_at, counters.last_finished_at)
        frames.append(frame)
    # seeds are those of the rollout's key, whatever its run
    assert frames[0]["completion"].equals(frames[1]["completion"])
    # one replica served both
    assert len(list((plan.paths.logs).glob("*.log"))) == 1
    assert not other.paths.logs.exists()
