"""Replicas and their descendants end with their owner, and no other process is killed."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from tasks.files import publish_json, read_json
from tasks.parent_death import PARENT_VARIABLE, SITECUSTOMIZE_DIRECTORY
from tasks.process_tree import ProcessRecord, end_leftovers, kill_all, record_processes
from tests.support.patience import until

SLEEPER = "import signal; signal.pause()"
TREE = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "{SLEEPER}"])
print("up", flush=True)
{SLEEPER}
"""
PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(__import__("os").getpid())], stdout=subprocess.PIPE)
print(child.stdout.readline().decode().strip(), flush=True)
signal.pause()
"""
DIES_WITH_PARENT = """
import os, signal, sys
from tasks.parent_death import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
signal.pause()
"""
REPLICA = """
import gc, os, sys
from multiprocessing.connection import Connection
from tasks.parent_death import PARENT_VARIABLE, ForkGuard
from tests.tasks.test_process_tree import start_below
os.environ[PARENT_VARIABLE] = str(os.getpid())
guard = ForkGuard([Connection(int(sys.argv[1]))])
gc.disable()
start_below(sys.argv[2:])
"""
SHARES_MEMORY = """
import signal, sys
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from tasks.process_tree import ProcessRecord, descendants, kill_all
if __name__ == "__main__":
    memory, lock = SharedMemory(create=True, size=64), get_context("spawn").Lock()
    print(memory.name.removeprefix("/"), lock._semlock.name.removeprefix("/"), flush=True)
    if sys.argv[1] == "ends":
        kill_all(descendants(__import__("os").getpid()))
        __import__("os")._exit(1)
    signal.pause()
"""
TOO_LATE = """
from tasks.parent_death import die_with_parent
die_with_parent(1 if __import__("os").getppid() != 1 else 2)
print("still here")
"""
SPAWNED = "import gc; print('collects rarely' if gc.get_threshold()[0] > 1000 else 'collects')"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield process
    process.kill()
    process.wait()


def record_of(pid: int) -> ProcessRecord:
    record = ProcessRecord.of(pid)
    assert record is not None
    return record


@pytest.mark.parametrize("ended", ["is killed", "ends"])
def test_shared_memory_of_a_killed_process_is_given_back(ended: str) -> None:
    command = [sys.executable, "-c", SHARES_MEMORY, ended.split()[-1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        memory, lock = process.stdout.readline().split()
        files = [Path("/dev/shm", name) for name in (memory, f"sem.{lock}")]
        if ended == "is killed":
            assert all(file.exists() for file in files)
            assert kill_all([record_of(process.pid)]) == []
            assert not any(file.exists() for file in files)
        process.stdout.read()
    until(lambda: not any(file.exists() for file in files), "the tracker gives shared memory back")


def wait_until_gone(pids: list[int]) -> None:
    until(lambda: not any(_lives(pid) for pid in pids), f"the end of processes {pids}")


def _lives(pid: int) -> bool:
    record = ProcessRecord.of(pid)
    return record is not None and record.process() is not None


def start_below(methods: list[str]) -> None:
    """Start a process below this one, and so on, as an engine core starts workers; none asks for a signal itself."""
    # as vLLM's do
    signal.signal(signal.SIGINT, signal.default_int_handler)
    SharedMemory(create=True, size=64).unlink()
    print(os.getpid(), gc.isenabled(), flush=True)
    if methods:
        context: Any = multiprocessing.get_context(methods[0])
        context.Process(target=start_below, args=(methods[1:],)).start()
    while True:
        signal.pause()


def test_a_replica_dies_when_its_flow_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, DIES_WITH_PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert _lives(pid)
    parent.kill()
    parent.communicate()
    wait_until_gone([pid])


@pytest.mark.parametrize("methods", [["spawn", "spawn"], ["fork", "fork"], ["fork", "spawn"]])
def test_what_a_replica_starts_hears_no_ctrl_c_and_dies_with_it(methods: list[str]) -> None:
    paths = os.pathsep.join([str(SITECUSTOMIZE_DIRECTORY), *filter(None, sys.path)])
    _, theirs = multiprocessing.Pipe()
    replica = subprocess.Popen(
        [sys.executable, "-c", REPLICA, str(theirs.fileno()), *methods],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        pass_fds=[theirs.fileno()],
    )
    assert replica.stdout is not None
    started = [replica.stdout.readline().split() for _ in range(3)]
    pids = [int(pid) for pid, _ in started]
    # only the replica, which works for a moment more, collects no garbage
    assert [collects for _, collects in started] == ["False", "True", "True"]
    # while others have it open, the other end does not notice that the replica has ended
    connection = Path(f"/proc/self/fd/{theirs.fileno()}").readlink()
    assert [connection in _open_files(pid) for pid in pids] == [True, False, False]
    for pid in pids[1:]:
        os.kill(pid, signal.SIGINT)
    assert all(_lives(pid) for pid in pids)
    replica.kill()
    replica.communicate()
    wait_until_gone(pids)


def _open_files(pid: int) -> list[Path]:
    return [file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_spawned_process_starts_faster_and_ends_before_it_imports_anything_when_its_replica_is_gone() -> None:
    paths = os.pathsep.join([str(SITECUSTOMIZE_DIRECTORY), *filter(None, sys.path)])
    # the parent that is named first is not the one that it has: as when the replica died a moment ago
    for parent, expected in ((1, (1, "")), (os.getpid(), (0, "collects rarely\n"))):
        spawned = subprocess.run(
            [sys.executable, "-c", SPAWNED, "--multiprocessing-fork"],
            env={**os.environ, "PYTHONPATH": paths, PARENT_VARIABLE: str(parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (spawned.returncode, spawned.stdout) == expected


def test_the_users_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hidden')")
    paths = os.pathsep.join([str(SITECUSTOMIZE_DIRECTORY), str(tmp_path), *filter(None, sys.path)])
    started = subprocess.run(
        [sys.executable, "-c", "print('started')"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (started.stdout, started.stderr) == ("hidden\nstarted\n", "")


def test_a_child_whose_parent_is_gone_ends_at_once() -> None:
    child = subprocess.run([sys.executable, "-c", TOO_LATE], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (1, "")


def test_a_record_does_not_match_a_later_process_with_the_same_pid(sleeper: "subprocess.Popen[bytes]") -> None:
    record = record_of(sleeper.pid)
    assert record.process() is not None
    assert ProcessRecord(pid=sleeper.pid, started=record.started - 1).process() is None
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    # a zombie is not alive
    assert record.process() is None
    sleeper.wait()
    assert ProcessRecord.of(sleeper.pid) is None


def test_kill_all_kills_descendants_and_stopped_processes() -> None:
    parent = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) == 1
    parent.send_signal(signal.SIGSTOP)
    assert kill_all([record_of(parent.pid)]) == []
    assert parent.wait() == -signal.SIGKILL
    parent.stdout.close()
    wait_until_gone([int(pid) for pid in children])


def test_replicas_of_a_dead_owner_are_killed(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    path = tmp_path / "run" / "state" / "replica-0.pid.json"
    record_processes(path, [record_of(sleeper.pid)])
    # while the owner, this process, lives, nothing is a leftover
    assert end_leftovers(tmp_path) == []
    assert sleeper.poll() is None
    assert path.exists()
    value = read_json(path)
    publish_json({**value, "owner": {"pid": 1, "started": 1}}, path)
    assert end_leftovers(tmp_path) == [sleeper.pid]
    assert sleeper.wait() == -signal.SIGKILL
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"place": "another boot/pid:[1]"}, id="of another node or boot"),
        pytest.param({"processes": [{"pid": "SLEEPER", "started": 1}]}, id="with another start time"),
    ],
)
def test_processes_of_others_are_not_killed(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", change: dict[str, object]
) -> None:
    path = tmp_path / "run" / "state" / "replica-0.pid.json"
    record_processes(path, [record_of(sleeper.pid)])
    value = {**read_json(path), "owner": {"pid": 1, "started": 1}, **change}
    text = str(value).replace("'SLEEPER'", str(sleeper.pid)).replace("'", '"')
    path.write_text(text)
    assert end_leftovers(tmp_path) == []
    assert sleeper.poll() is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(None, id="torn"),
        pytest.param({"owner": {"pid": 1}}, id="an owner without its start time"),
        pytest.param({"owner": "1"}, id="an owner that is text"),
        pytest.param({"processes": None}, id="no list of processes"),
        pytest.param({"processes": ["1"]}, id="a process that is text"),
        pytest.param({"processes": [{"pid": None, "started": None}]}, id="a process without numbers"),
        pytest.param({"processes": [{"pid": 1, "born": 1}]}, id="a process of other fields"),
    ],
)
def test_a_damaged_record_is_skipped_and_the_others_are_used(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", change: dict[str, object] | None
) -> None:
    bad, good = (tmp_path / run / "state" / "replica-0.pid.json" for run in ("a", "b"))
    record_processes(good, [record_of(sleeper.pid)])
    value = {**read_json(good), "owner": {"pid": 1, "started": 1}}
    publish_json(value, good)
    publish_json({**value, **(change or {})}, bad)
    if change is None:
        bad.write_text('{"owner": {"pid"')
    assert end_leftovers(tmp_path) == [sleeper.pid]
    assert bad.exists()
    assert not good.exists()
