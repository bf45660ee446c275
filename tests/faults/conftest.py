"""The rows of an undisturbed run, with which the tests compare disturbed runs."""

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
def undisturbed_fake(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows of the fake engine. One test process makes them, and all read them."""
    kept = session_folder(tmp_path_factory) / "undisturbed.pickle"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(_generate(tmp_path_factory.mktemp("undisturbed"))))
        rows: Rows = pickle.loads(kept.read_bytes())
    return rows


def _generate(folder: Path) -> Rows:
    profile = write_profile(folder, backend="tests.support.fake_engines:FakeEngine")
    outcome = start_generation(folder / "runs", profile).finish()
    assert outcome["restarts"] == 0
    root = only_run_dir(folder / "runs")
    # one engine for all shards
    assert (len(outcome["shards"]), len(logs(root))) == (ROLLOUTS // (SHARD_SIZE * ARMS), 1)
    rows = read_rows(root)
    assert len(rows) == ROLLOUTS
    return rows
