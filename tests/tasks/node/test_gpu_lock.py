"""One run at a time holds a GPU, across processes and users, and also when the holder is killed."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.node.gpu_lock import lock_gpus
from tests.support.patience import until

HOLD = """
import sys
from pathlib import Path
from tasks.node.gpu_lock import lock_gpus
with lock_gpus(sys.argv[2].split(","), run_id="night-shift", on_wait=print, directory=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process that holds GPUs 1 and 2."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "1,2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_the_next_run_waits_and_names_the_holder(holder: "subprocess.Popen[str]", tmp_path: Path, end: str) -> None:
    told: list[str] = []
    waiting, entered = threading.Event(), threading.Event()

    def note(text: str) -> None:
        told.append(text)
        waiting.set()

    def enter() -> None:
        with lock_gpus(["0", "1"], run_id="day-shift", on_wait=note, directory=tmp_path):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    until(waiting.is_set, "the second run to say that it waits")
    assert not entered.is_set()
    if end == "leaves":
        assert holder.stdin is not None
        holder.stdin.close()
    else:
        holder.kill()
    until(entered.is_set, "the second run to have the GPU")
    thread.join()
    [text] = told
    assert text.startswith(f"waiting for GPU 1, in use by run night-shift, process {holder.pid} on ")


def test_other_gpus_are_free(holder: object, tmp_path: Path) -> None:
    with lock_gpus(["0", "3"], run_id="other", on_wait=pytest.fail, directory=tmp_path):
        pass


def test_a_child_process_holds_the_locks_too(tmp_path: Path) -> None:
    with lock_gpus(["0", "1"], run_id="bench", on_wait=pytest.fail, directory=tmp_path):
        inner = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path), "0"], input="", capture_output=True, text=True, check=True
        )
    assert inner.stdout == "held\n"
    assert "HARVEST_GPUS_HELD" not in os.environ


def test_a_lock_of_another_user_is_opened_unchanged(tmp_path: Path) -> None:
    lock = tmp_path / "gpu-0.lock"
    lock.touch()
    before = lock.stat()
    with lock_gpus(["0"], run_id="mine", on_wait=pytest.fail, directory=tmp_path):
        assert lock.stat().st_ino == before.st_ino
        # only the owner may change the mode
        assert lock.stat().st_mode == before.st_mode


def test_locks_that_cannot_be_made_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "locks"
    with (
        pytest.raises(ConfigError, match=r"GPU 0 cannot be opened: .*`install -d -m 1777 .* HARVEST_LOCK_DIR"),
        lock_gpus(["0"], run_id="mine", on_wait=pytest.fail, directory=directory),
    ):
        pass


OF_ANOTHER_USER = """
import os, sys
from pathlib import Path
from tasks.node.gpu_lock import lock_gpus
directory = Path(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with lock_gpus(["0"], run_id="theirs", on_wait=print, directory=directory):
    print((directory / "gpu-0.lock").read_text())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_can_take_a_released_lock() -> None:
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        directory = Path(base) / "locks"
        with lock_gpus(["0"], run_id="mine", on_wait=pytest.fail, directory=directory):
            pass
        theirs = subprocess.run(
            [sys.executable, "-c", OF_ANOTHER_USER, str(directory)], capture_output=True, text=True, check=False
        )
    assert theirs.returncode == 0, theirs.stderr
    assert "theirs" in theirs.stdout


def test_every_user_of_the_node_may_open_the_lock(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    before = os.umask(0o077)
    try:
        with lock_gpus(["GPU-4f2a/7"], run_id="mine", on_wait=pytest.fail, directory=directory):
            [lock] = directory.iterdir()
            assert lock.name == "gpu-GPU-4f2a_7.lock"
            assert lock.stat().st_mode & 0o666 == 0o666
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o1777 == 0o1777
