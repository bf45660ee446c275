"""An undisturbed run, with which the tests compare disturbed ones."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tests.faults.finished_run import finish
from tests.faults.runs import (
    ARMS,
    ROLLOUTS,
    SHARD_SIZE,
    Rows,
    RunProcess,
    logs,
    only_run_dir,
    parameters,
    read_rows,
    start_generation,
    write_profile,
)
from tests.support.shared_process import session_folder


@pytest.fixture(autouse=True)
def _end_what_a_failed_test_left() -> Iterator[None]:
    yield
    for run in RunProcess.started:
        run.process.kill()
        run.process.wait()
    RunProcess.started.clear()


@pytest.fixture(scope="session")
def undisturbed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of the fake engine. One test process makes it; nobody may change it."""
    folder = session_folder(tmp_path_factory) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            _generate(folder)
            (folder / "made").touch()
    return only_run_dir(folder / "runs")


@pytest.fixture(scope="session")
def undisturbed_fake(undisturbed_run: Path) -> Rows:
    """The rows of that run."""
    return read_rows(undisturbed_run)


def _generate(folder: Path) -> None:
    profile = write_profile(folder, backend="tests.support.fake_engines:FakeEngine")
    outcome = start_generation(folder / "runs", profile).finish()
    assert outcome["restarts"] == 0
    root = only_run_dir(folder / "runs")
    # one engine for all shards
    assert (len(outcome["shards"]), len(logs(root))) == (ROLLOUTS // (SHARD_SIZE * ARMS), 1)
    assert len(read_rows(root)) == ROLLOUTS
    finish(plan_run(config_from_parameters(parameters(profile)), folder / "runs"))
