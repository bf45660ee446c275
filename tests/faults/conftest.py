"""What the disturbed runs are compared with: one undisturbed run of each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import ROLLOUTS, Drive, Rows, drive, read_rows, the_run, write_profile


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
    rows = read_rows(the_run(folder / "runs"))
    assert len(rows) == ROLLOUTS
    return rows
