"""A run that is refused leaves nothing behind; one that fails says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.shards.claimed_run import claimed
from tasks.errors import ConfigError, HarvestError, NotEquivalent, PreflightFailed, RunLocked, SettingRefused
from tasks.files import publish_text, set_aside
from tasks.locks import run_lock
from tasks.records import RunPaths
from tasks.results.run_end import record_end
from tasks.results.run_state import run_state
from tasks.storage.published import recorded_path
from tasks.storage.run_files import write_manifest
from tests.support.synthetic import write_run

REFUSALS = [
    PreflightFailed("no GPU"),
    ConfigError("the baseline is of other questions"),
    RunLocked("another run of the collection is in use"),
    SettingRefused("no such backend", log_path=Path("logs/replica-0-0.log"), remedy="Choose another"),
]


def prepare(paths: RunPaths, text: str) -> None:
    """Write what a flow writes before it generates."""
    for path in (paths.config, paths.prompts, paths.preflight):
        publish_text(f'{{"fingerprint": "{text}"}}', path, recorded_path)


def find_damages(paths: RunPaths) -> None:
    """Set aside what a flow finds damaged, before it is refused."""
    for path in (paths.rollouts(0), paths.preflight, paths.logs):
        set_aside(path)
    prepare(paths, "new")


def work_on(paths: RunPaths, do: Callable[[], object], error: BaseException) -> None:
    with claimed(paths):
        do()
        raise error


def content(paths: RunPaths) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in paths.root.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refused_run_leaves_no_directory(error: HarvestError, tmp_path: Path) -> None:
    paths = RunPaths(root=tmp_path / "runs" / "run")
    with pytest.raises(type(error), match=str(error).partition(".")[0]) as raised:
        work_on(paths, lambda: prepare(paths, "new"), error)
    assert "log" not in str(raised.value), "the log is not there any more"
    assert list(paths.root.parent.iterdir()) == []


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refused_run_leaves_a_directory_as_it_was(error: HarvestError, tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", shards=1, arms=1)
    publish_text("{}", paths.preflight, recorded_path)
    paths.logs.write_text("not a directory")
    (paths.root / "telemetry.parquet.damaged").write_text("set aside by an earlier session")
    record_end(paths.root, ValueError("an earlier failure"))
    before, state = content(paths), run_state(paths.root)
    with pytest.raises(type(error)):
        work_on(paths, lambda: find_damages(paths), error)
    assert content(paths) == before
    assert (run_state(paths.root), state.name) == (state, "failed")


def test_what_is_refused_after_work_was_done_has_failed(tmp_path: Path) -> None:
    paths = RunPaths(root=tmp_path / "run")
    error = ConfigError("the destination holds another run")
    with pytest.raises(ConfigError):
        work_on(paths, lambda: write_run(paths.root, shards=1, arms=1), error)
    state = run_state(paths.root)
    assert (state.name, state.reason) == ("failed", "the destination holds another run")


def test_a_run_in_use_is_not_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state" / "lock"
    with run_lock(path), pytest.raises(RunLocked, match="is in use by"), claimed(RunPaths(root=tmp_path / "run")):
        pass
    assert path.exists()


@pytest.mark.parametrize("error", [NotEquivalent("they differ"), KeyboardInterrupt()], ids=["different", "Ctrl-C"])
def test_a_finished_run_stays_finished(error: BaseException, tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", shards=1, arms=1)
    with pytest.raises(type(error)):
        work_on(paths, lambda: write_manifest(paths.root), error)
    assert str(run_state(paths.root)) == "finished"
