"""The rows of one undisturbed run of each engine, with which the tests compare disturbed runs."""

import fcntl
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import (
    ARMS,
    ROLLOUTS,
    SHARD_SIZE,
    Rows,
    RunProcess,
    logs,
    only_run_dir,
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
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows of the real engine."""
    return _undisturbed(tmp_path_factory, "vllm")


@pytest.fixture(scope="session")
def undisturbed_fake(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows of the fake engine."""
    return _undisturbed(tmp_path_factory, "tests.support.fake_engines:FakeEngine")


def _undisturbed(factory: pytest.TempPathFactory, backend: str) -> Rows:
    """Return the rows of a run that one test process makes and all of them read."""
    kept = session_folder(factory) / f"undisturbed-{backend.rpartition(':')[2]}.pickle"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(_generate(factory.mktemp("undisturbed"), backend)))
        rows: Rows = pickle.loads(kept.read_bytes())
    return rows


def _generate(folder: Path, backend: str) -> Rows:
    outcome = start_generation(folder / "runs", write_profile(folder, backend=backend)).finish()
    assert outcome["restarts"] == 0
    root = only_run_dir(folder / "runs")
    # one engine for all shards
    assert (len(outcome["shards"]), len(logs(root))) == (ROLLOUTS // (SHARD_SIZE * ARMS), 1)
    rows = read_rows(root)
    assert len(rows) == ROLLOUTS
    return rows
