"""Recovery: what happens after each failure of an engine, and when the run ends."""

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import (
    ConfigError,
    EngineCrashed,
    EngineStalled,
    EngineStartError,
    HarvestError,
    OutOfMemory,
    StorageError,
)
from tasks.generation.recovery import PoolEvent, Recovery, RestartBudget
from tasks.generation.rung_state import RungState, forget_rung
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run

BATCH = 4


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    folder = tmp_path_factory.mktemp("plan")
    profile = folder / "small.toml"
    profile.write_text(
        f'name = "small"\nmodel = "demo"\nquestion_batch_size = {BATCH}\n'
        '[engine]\ndtype = "float32"\nenforce_eager = true\n[expect]\ndevice = "cpu"\n'
    )
    return plan_run(RunConfig(profile=str(profile)), folder / "runs")


class Case:
    """A recovery that keeps its events, and the budget of one replica."""

    def __init__(self, plan: RunPlan, path: Path) -> None:
        self.events: list[PoolEvent] = []
        self.recovery = Recovery(plan, RungState(path), self.events.append)
        self.budget = RestartBudget()

    def fail(
        self,
        error: HarvestError,
        rung: int | None = None,
        *,
        started_before: bool = True,
        has_suspects: bool = False,
    ) -> Any:
        return self.recovery.decide(
            error,
            replica=0,
            rung=self.recovery.rung.index if rung is None else rung,
            budget=self.budget,
            started_before=started_before,
            has_suspects=has_suspects,
        )


@pytest.fixture
def case(plan: RunPlan, tmp_path: Path) -> Case:
    return Case(plan, tmp_path / "oom.json")


def out_of_memory(*, curable: bool = True) -> OutOfMemory:
    return OutOfMemory("CUDA out of memory", kind="device", phase="run", curable=curable)


def test_out_of_memory_halves_the_batch_down_to_one_and_then_lists_what_was_tried(case: Case) -> None:
    for batch in (2, 1):
        error, delay = case.fail(out_of_memory())
        assert (error.retryable, delay) == (True, 0.0)
        assert case.recovery.rung.question_batch_size == batch
    error, _ = case.fail(out_of_memory())
    assert not error.retryable
    assert isinstance(error, OutOfMemory)
    assert "question batches 4, 2, 1" in str(error)
    assert "larger tensor_parallel_size" in str(error)
    assert "with --forget-oom-rung it starts with the full batch" in str(error)
    assert [event.details["question_batch_size"] for event in case.events] == [2, 1]
    assert [change.settings["question_batch_size"] for change in case.recovery.changes] == [2, 1]


def test_after_the_last_rung_the_run_begins_there_until_the_rung_is_forgotten(plan: RunPlan) -> None:
    path = plan.paths.state / "oom_ladder.json"
    case = Case(plan, path)
    while case.fail(out_of_memory())[0].retryable:
        pass
    assert Case(plan, path).recovery.rung.question_batch_size == 1
    assert forget_rung(plan)
    assert Case(plan, path).recovery.rung.question_batch_size == BATCH


def test_one_failure_halves_once_however_many_replicas_it_hits(case: Case) -> None:
    for _ in range(3):
        error, _ = case.fail(out_of_memory(), rung=0)
        assert error.retryable
    assert case.recovery.rung.index == 1
    assert len(case.events) == 1


def test_the_rung_is_on_disk_before_anything_is_retried(case: Case, plan: RunPlan, tmp_path: Path) -> None:
    case.fail(out_of_memory())
    assert Case(plan, tmp_path / "oom.json").recovery.rung.question_batch_size == BATCH // 2


@pytest.mark.parametrize(
    ("error", "started_before"),
    [
        pytest.param(out_of_memory(curable=False), True, id="memory that a smaller batch does not free"),
        pytest.param(ConfigError("no such backend"), True, id="bad input"),
        pytest.param(StorageError("disk full"), True, id="full disk"),
        pytest.param(EngineStartError("bad model"), False, id="an engine that has never started"),
    ],
)
def test_a_failure_that_a_retry_cannot_cure_is_raised_unchanged(
    case: Case, error: HarvestError, started_before: bool
) -> None:
    raised, _ = case.fail(error, started_before=started_before)
    assert raised is error
    assert not raised.retryable
    assert case.recovery.rung.index == 0
    assert case.recovery.num_failures == 0


@pytest.mark.parametrize("failure", [EngineCrashed, EngineStalled, EngineStartError])
def test_restarts_wait_longer_each_time_and_end_when_no_rollout_finishes(
    case: Case, failure: type[EngineCrashed]
) -> None:
    delays = []
    for _ in range(case.budget.max_restarts):
        error, delay = case.fail(failure("boom"))
        assert error.retryable
        delays.append(delay)
    assert delays == [1, 2, 4, 8, 16]
    error, _ = case.fail(failure("boom", log_path=Path("the.log")))
    assert type(error) is failure
    assert not error.retryable
    assert "boom; 5 restarts in a row brought no rollout" in str(error)
    assert "the.log" in str(error)
    assert case.recovery.num_failures == 6


def test_a_question_that_kills_the_engine_under_every_arm_is_found_out_before_the_budget_ends(
    case: Case, plan: RunPlan
) -> None:
    # in its batch, with nothing but its question, and then each of its rollouts alone
    for _ in range(2 + plan.rollouts_per_question):
        error, _ = case.fail(EngineCrashed("boom"), has_suspects=True)
        assert error.retryable
    # an engine that every request kills is not started for ever
    for _ in range(case.budget.max_restarts):
        error, _ = case.fail(EngineCrashed("boom"), has_suspects=True)
    assert not error.retryable


def test_a_rollout_in_between_renews_the_budget(case: Case) -> None:
    for _ in range(3 * case.budget.max_restarts):
        error, delay = case.fail(EngineCrashed("boom"))
        assert (error.retryable, delay) == (True, 1)
        case.budget.progressed()
