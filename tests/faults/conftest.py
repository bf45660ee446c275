"""What the disturbed runs are compared with: one undisturbed run of each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import ARMS, ROLLOUTS, SHARD_SIZE, Drive, Rows, drive, logs, read_rows, the_run, write_profile


@pytest.fixture(autouse=True)
def _end_what_a_failed_test_left() -> Iterator[None]:
    yield
    for run in Drive.started:
        run.process.kill()
        run.process.communicate()
    Drive.started.clear()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows of the real engine."""
    return _undisturbed(tmp_path_factory.mktemp("undisturbed"), "tasks.engine:VllmEngine")


@pytest.fixture(scope="session")
def undisturbed_fake(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows of the fake engine."""
    return _undisturbed(tmp_path_factory.mktemp("undisturbed-fake"), "tests.fakes:FakeEngine")


def _undisturbed(folder: Path, backend: str) -> Rows:
    outcome = drive(folder / "runs", write_profile(folder, backend=backend)).finish()
    assert outcome["restarts"] == 0
    root = the_run(folder / "runs")
    # one engine for all shards
    assert (len(outcome["shards"]), len(logs(root))) == (ROLLOUTS // (SHARD_SIZE * ARMS), 1)
    rows = read_rows(root)
    assert len(rows) == ROLLOUTS
    return rows
