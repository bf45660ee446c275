"""Every state of a run, made as runs come into it, is told the same way wherever runs are listed."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tasks.errors import ConfigError, OutOfMemory, UploadError
from tasks.files import publish_text
from tasks.locks import run_lock
from tasks.records import RunPaths
from tasks.results.run_end import forget_end, record_end
from tasks.results.run_list import list_runs
from tasks.results.run_state import run_state
from tasks.results.scored_rollouts import check_scored
from tasks.storage.published import recorded_path
from tasks.storage.run_files import write_manifest
from tasks.storage.upload import RunUploader, upload_run
from tests.support.synthetic import write_run

FORK = multiprocessing.get_context("fork")


def hold(path: Path, held: "Connection[None, None]", work: dict[str, str]) -> None:
    with run_lock(path, **work):
        held.send(None)
        held.recv()


@contextmanager
def worked_on(run: RunPaths, **work: str) -> Iterator[int]:
    """Have another process hold the run's lock; yields its pid, and kills it."""
    held, told = FORK.Pipe()
    process = FORK.Process(target=hold, args=(run.state / "lock", told, work))
    process.start()
    held.recv()
    assert process.pid is not None
    yield process.pid
    process.kill()
    process.join()
    process.close()


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return write_run(tmp_path / "runs" / "run", arms=1, shards=2)


def told(run: RunPaths) -> tuple[str, str]:
    """The state of the run and its reason, as all tell it."""
    state = run_state(run.root)
    (listed,) = list_runs(run.root.parent)
    assert (listed.state, listed.reason) == (state.name, state.reason)
    return state.name, state.reason or ""


def remove_shards(run: RunPaths, *indices: int) -> None:
    for index in indices:
        for folder in ("rollouts", "scores"):
            (run.root / folder / f"shard-{index:05d}.parquet").unlink()
            (run.state / folder / f"shard-{index:05d}.json").unlink()


def upload(run: RunPaths) -> None:
    upload_run(run.root, str(run.root.parents[1] / "there"))


def upload_in_part(run: RunPaths) -> None:
    """Leave what a process leaves that is killed in the middle of an upload."""
    with RunUploader(run.root, str(run.root.parents[1] / "there")) as uploader:
        uploader.upload_files(["rollouts/shard-00000.parquet"])


def change_after_upload(run: RunPaths) -> None:
    upload(run)
    publish_text("new", run.report_html, recorded_path)
    write_manifest(run.root)


OUT_OF_MEMORY = OutOfMemory("CUDA ran out\nof memory", kind="device", phase="run")
STATES: dict[str, tuple[list[Callable[[RunPaths], object]], str, str]] = {
    "prepared": ([lambda run: remove_shards(run, 0, 1)], "planned", ""),
    "its engine was starting": (
        [lambda run: remove_shards(run, 0, 1), lambda run: publish_text("", run.logs / "replica-0-0.log")],
        "interrupted",
        "no process works on it",
    ),
    "in the middle": ([lambda run: remove_shards(run, 1)], "interrupted", "no process works on it"),
    "summarizing": ([], "interrupted", "has all rollouts, and no manifest yet"),
    "Ctrl-C": ([lambda run: record_end(run.root, KeyboardInterrupt())], "interrupted", "Ctrl-C, SIGTERM, a"),
    "failed": ([lambda run: record_end(run.root, OUT_OF_MEMORY)], "failed", "CUDA ran out⏎of memory"),
    "a fault of ours": ([lambda run: record_end(run.root, KeyError("x"))], "failed", "KeyError: 'x'"),
    "goes on after a failure": (
        [lambda run: record_end(run.root, OUT_OF_MEMORY), lambda run: forget_end(run.root)],
        "interrupted",
        "has all rollouts",
    ),
    "finished": ([lambda run: write_manifest(run.root)], "finished", ""),
    "upload failed": (
        [lambda run: write_manifest(run.root), lambda run: record_end(run.root, UploadError("listing failed"))],
        "finished",
        "then it failed: listing failed",
    ),
    "killed in an upload": ([upload_in_part, lambda run: write_manifest(run.root)], "finished", "is not complete"),
    "uploaded": ([upload], "uploaded", "there/run"),
    "uploaded after a failure": (
        [lambda run: record_end(run.root, UploadError("listing failed")), upload],
        "uploaded",
        "there/run",
    ),
    "changed": ([change_after_upload], "finished", "has changed since it was uploaded to"),
    "lost a shard": ([upload, lambda run: run.scores(1).unlink()], "interrupted", "scores/shard-00001.parquet is lost"),
}
"""What happened to a run with all its rollouts, its state, and a part of the reason."""


@pytest.mark.parametrize("case", STATES)
def test_states(case: str, run: RunPaths) -> None:
    happened, state, reason = STATES[case]
    for each in happened:
        each(run)
    name, why = told(run)
    assert (name, reason in why, bool(why)) == (state, True, bool(reason)), why
    with worked_on(run, flow_run="h200x1 · 500 q x 8 (an id)") as pid:
        assert told(run)[0] == "running"
        assert f"process {pid} on " in told(run)[1]
        assert told(run)[1].endswith(", flow run h200x1 · 500 q x 8 (an id)")
    # the kernel lets go of the lock of a process that was killed
    assert told(run)[0] == state


def test_a_killed_process_is_named(run: RunPaths) -> None:
    remove_shards(run, 1)
    with worked_on(run) as pid:
        pass
    name, why = told(run)
    assert (name, why.startswith(f"killed: process {pid} on ")) == ("interrupted", True)
    with pytest.raises(ConfigError, match=rf"is not a finished run: it is interrupted \(killed: process {pid} on "):
        check_scored(run.root)


def test_a_process_that_does_not_collect_the_run_does_not_make_it_running(run: RunPaths) -> None:
    write_manifest(run.root)
    with worked_on(run, work="harvest rm"):
        name, why = told(run)
    assert (name, why.startswith("harvest rm works on it: process ")) == ("finished", True)
    assert told(run) == ("finished", "")


def test_a_finished_run_is_listed_by_its_manifest(run: RunPaths) -> None:
    write_manifest(run.root)
    # whoever opens it would find no shard
    run.rollouts(0).chmod(0)
    run.rollouts(0).write_bytes(b"x" * run.rollouts(0).stat().st_size)
    assert told(run) == ("finished", "")
    run.rollouts(0).write_bytes(b"shorter")
    assert told(run)[0] == "interrupted"
