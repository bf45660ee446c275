"""MPS with a stand-in for NVIDIA's daemon: when it is used, what replicas get, and that it ends with the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from profiles.schema import Profile
from tasks.node.mps import LONGEST_DIRECTORY, Mps, find_mps, is_mps_server, run_mps
from tests.support.fake_mps import install_fake_mps, run_daemon_of_the_user
from tests.support.patience import await_exit, is_alive, until

SHARED = Profile(name="shared", replicas=2, replicas_per_gpu=2)

RUN = """
import signal, sys
from pathlib import Path
from profiles.schema import Profile
from tasks.node.mps import run_mps
with run_mps(Profile(name="shared", replicas=2, replicas_per_gpu=2)) as mps:
    Path(sys.argv[1]).write_text(str(mps))
    signal.pause()
"""


def daemon(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "daemon.pid").read_text()))


def test_a_run_starts_a_daemon_that_only_its_replicas_use_and_that_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    environment = install_fake_mps(folder) | {"CUDA_VISIBLE_DEVICES": "5,7"}
    with run_mps(SHARED, environment) as mps:
        assert str(mps) == "MPS on: a daemon of the run's own"
        assert mps is not None
        assert set(mps.environment) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
        assert not set(mps.environment) & set(os.environ)
        pipes = Path(mps.environment["CUDA_MPS_PIPE_DIRECTORY"])
        assert len(str(pipes)) <= LONGEST_DIRECTORY
        assert pipes.parent.stat().st_mode & 0o777 == 0o700
        running = daemon(folder)
        seen = (folder / "daemon.env").read_text().splitlines()
        assert f"CUDA_MPS_PIPE_DIRECTORY={pipes}" in seen
        # with it, the daemon would renumber the GPUs for the replicas
        assert not [line for line in seen if line.startswith("CUDA_VISIBLE_DEVICES")]
    assert not is_alive(running)
    assert (folder / "daemon.end").read_text() == "quit\n"
    assert not pipes.parent.exists()


@pytest.mark.parametrize(
    ("number", "to_group"),
    [
        pytest.param(signal.SIGKILL, False, id="killed"),
        pytest.param(signal.SIGKILL, True, id="killed with its group"),
        pytest.param(signal.SIGINT, True, id="Ctrl-C"),
    ],
)
def test_the_daemon_ends_however_its_run_ends(tmp_path: Path, number: signal.Signals, to_group: bool) -> None:
    folder, told = tmp_path / "bin", tmp_path / "told"
    environment = install_fake_mps(folder)
    log = tmp_path / "run.log"
    with log.open("wb") as output:
        run = subprocess.Popen(
            [sys.executable, "-c", RUN, str(told)],
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
            stderr=output,
            start_new_session=True,
        )
    until(lambda: told.exists() and told.read_text(), "the run has its daemon", alive=[run], logs=[log])
    assert told.read_text().startswith("MPS on")
    running = daemon(folder)
    (os.killpg if to_group else os.kill)(run.pid, number)
    await_exit(run)
    until(lambda: not is_alive(running), "the daemon ends")
    assert (folder / "daemon.end").read_text() == "quit\n"
    until(lambda: not list(tmp_path.glob("mps-*")), "its directory is gone")


def test_a_daemon_ends_when_its_guard_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    with run_mps(SHARED, install_fake_mps(folder)):
        running = daemon(folder)
        guard = running.parent()
        assert guard is not None
        guard.kill()
        until(lambda: not is_alive(running), "the daemon ends")


def test_a_daemon_that_does_not_start_stops_no_run(tmp_path: Path) -> None:
    environment = install_fake_mps(tmp_path / "bin") | {"FAKE_MPS_FAULT": "An instance is already running"}
    with run_mps(SHARED, environment) as mps:
        assert str(mps) == (
            "MPS off: the daemon did not start (nvidia-cuda-mps-control -f: An instance is already running); the "
            "engines run without it"
        )
        assert mps is not None
        assert mps.environment == {}


def test_engines_with_gpus_of_their_own_need_no_daemon(tmp_path: Path) -> None:
    with run_mps(Profile(name="apart", replicas=2), install_fake_mps(tmp_path / "bin")) as mps:
        assert mps is None
    assert not (tmp_path / "bin" / "daemon.pid").exists()


@pytest.mark.parametrize("has_binary", [True, False])
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("is_set", [True, False])
def test_what_a_run_would_get(tmp_path: Path, has_binary: bool, answers: bool, is_set: bool) -> None:
    folder = tmp_path / "bin"
    environment = install_fake_mps(folder)
    pipes = tmp_path / "user" if is_set else folder / "default"
    variable = run_daemon_of_the_user(pipes) if answers else {"CUDA_MPS_PIPE_DIRECTORY": str(pipes)}
    environment |= variable if is_set else {}
    if not has_binary:
        environment["PATH"] = str(tmp_path)
    expected = {
        (True, True, True): f"MPS on: the daemon that runs already, of CUDA_MPS_PIPE_DIRECTORY={pipes}",
        (True, True, False): "MPS on: the daemon that runs already",
        (True, False, True): f"MPS off: no daemon answers at CUDA_MPS_PIPE_DIRECTORY={pipes}",
        (True, False, False): "MPS on: the run starts a daemon of its own",
    }
    with_variable = (
        f"MPS on: the daemon of CUDA_MPS_PIPE_DIRECTORY={pipes}, which cannot be asked without nvidia-cuda-mps-control"
    )
    without = with_variable if is_set else "MPS off: nvidia-cuda-mps-control is not on PATH"
    assert str(find_mps(environment)) == expected.get((has_binary, answers, is_set), without)
    if answers:
        # a daemon of the user is used as it is
        with run_mps(SHARED, environment) as mps:
            assert mps == Mps(on=mps is not None and mps.on, reason=find_mps(environment).reason)
        assert not (folder / "daemon.pid").exists()


@pytest.mark.parametrize(("name", "is_server"), [("nvidia-cuda-mps", True), ("python", False), (None, False)])
def test_servers_of_mps_are_known_by_name(tmp_path: Path, name: str | None, is_server: bool) -> None:
    (tmp_path / "77").mkdir()
    if name is not None:
        (tmp_path / "77" / "comm").write_text(f"{name}\n")
    assert is_mps_server(77, tmp_path) == is_server
