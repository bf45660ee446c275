"""NVIDIA's Multi-Process Service (MPS): kernels of engines that share a GPU run at the same time, not in turns.

A run whose engines share GPUs starts a daemon of its own, and its replicas alone use it. A guard process owns the
daemon, ``python -m tasks.node.mps PARENT_PID DIRECTORY``. It ends the daemon when its standard input closes or its
parent ends, so also after SIGKILL. It has a session of its own: Ctrl-C must end the engines first.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from profiles.schema import Profile
from tasks.parent_death import die_with_parent, guarded_python_path
from tasks.process_tree import ProcessRecord, kill_all
from tasks.time_limits import time_limit

CONTROL, SERVER = "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
START_SECONDS = 20.0
QUIT_SECONDS = 10.0
"""How long the daemon has to end by itself, and how long a run waits for its guard."""
LONGEST_DIRECTORY = 80
"""The path of a Unix socket has at most 107 bytes, and the daemon adds names of its own."""
_WATCH_SECONDS = 1.0
_READY = "ready"


@dataclass(frozen=True, kw_only=True)
class Mps:
    """Whether the engines of a run use MPS, and what their processes need for it."""

    on: bool
    reason: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for the replicas."""
    own: bool = False
    """Whether the run has to start a daemon first."""

    def __str__(self) -> str:
        return f"MPS {'on' if self.on else 'off'}: {self.reason}"


def find_mps(environment: Mapping[str, str] = os.environ) -> Mps:
    """Return what a run in this ``environment`` would get, without starting anything."""
    binary, pipes = shutil.which(CONTROL, path=environment.get("PATH")), environment.get(PIPES)
    if binary is None:
        if pipes:
            return Mps(on=True, reason=f"the daemon of {PIPES}={pipes}, which cannot be asked without {CONTROL}")
        return Mps(on=False, reason=f"{CONTROL} is not on PATH")
    if _answers(binary, environment):
        return Mps(on=True, reason=f"the daemon that runs already{f', of {PIPES}={pipes}' if pipes else ''}")
    if pipes:
        return Mps(on=False, reason=f"no daemon answers at {PIPES}={pipes}")
    return Mps(on=True, reason="the run starts a daemon of its own", own=True)


def is_mps_server(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process is a server of MPS, which is on the GPU for its clients."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").startswith(SERVER[:15])
    except OSError:
        return False


@contextlib.contextmanager
def run_mps(profile: Profile, environment: Mapping[str, str] = os.environ) -> Iterator[Mps | None]:
    """Yield the MPS of a run, None when its engines share no GPU. A daemon that it starts ends with the context.

    It raises no error: without a daemon the engines take turns on the GPU.
    """
    if profile.replicas_per_gpu == 1:
        yield None
        return
    found = find_mps(environment)
    if not found.own:
        yield found
        return
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(_own_daemon(environment))
        except OSError as error:
            started = Mps(on=False, reason=f"the daemon did not start ({error}); the engines run without it")
        yield started


@contextlib.contextmanager
def _own_daemon(environment: Mapping[str, str]) -> Iterator[Mps]:
    """Run a guard with its daemon inside the context. Raises OSError when the daemon does not start."""
    directory = _private_directory()
    own = {PIPES: str(directory / "pipe"), LOGS: str(directory / "log")}
    # CUDA_VISIBLE_DEVICES of the daemon would renumber the GPUs for its clients
    inherited = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks.node.mps", str(os.getpid()), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=inherited | own | {"PYTHONPATH": guarded_python_path()},
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    record = ProcessRecord.of(guard.pid)
    try:
        # two limits: the guard ends a daemon that does not answer within one
        told, _, _ = select.select([guard.stdout], [], [], time_limit(2 * START_SECONDS))
        said = guard.stdout.readline().decode(errors="replace").strip() if told else "its guard does not answer"
        if said != _READY:
            raise OSError(said or "its guard ended")
        yield Mps(on=True, reason="a daemon of the run's own", environment=own)
    finally:
        guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(time_limit(3 * QUIT_SECONDS))
        if record is not None:
            kill_all([record])
        guard.wait()
        guard.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


def _private_directory() -> Path:
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="mps-", dir=parent if len(parent) < LONGEST_DIRECTORY - 20 else "/tmp"))


def _answers(binary: str, environment: Mapping[str, str]) -> bool:
    return _tell(binary, "get_server_list", environment, START_SECONDS)


def _tell(binary: str, command: str, environment: Mapping[str, str], seconds: float) -> bool:
    """Send ``command`` to the daemon. Return whether one took it."""
    try:
        told = subprocess.run(
            [binary],
            input=command.encode() + b"\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=time_limit(seconds),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0


def _guard(parent_pid: int, directory: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own_pid = os.getpid()
    for name in (PIPES, LOGS):
        Path(os.environ[name]).mkdir()
    output = directory / "output"
    with output.open("wb") as log:
        daemon = subprocess.Popen(
            [CONTROL, "-f"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # this process has one thread, so that code may run between fork and exec
            preexec_fn=lambda: die_with_parent(own_pid),
        )
    record = ProcessRecord.of(daemon.pid)
    try:
        if not _starts(daemon):
            lines = output.read_text(errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            _say(f"{CONTROL} -f: {said}")
            return
        _say(_READY)
        while os.getppid() == parent_pid and daemon.poll() is None:
            if select.select([sys.stdin], [], [], _WATCH_SECONDS)[0]:
                break
    finally:
        if daemon.poll() is None:
            _tell(CONTROL, "quit", os.environ, QUIT_SECONDS)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(time_limit(QUIT_SECONDS))
        if record is not None:
            kill_all([record])
        shutil.rmtree(directory, ignore_errors=True)


def _say(line: str) -> None:
    # the run may have ended
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


def _starts(daemon: "subprocess.Popen[bytes]") -> bool:
    """Wait until the daemon answers. Return False when it ends first, or when the time is up."""
    for _ in range(int(time_limit(START_SECONDS) / 0.1)):
        if _answers(CONTROL, os.environ):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(0.1)
            return False
    return False


if __name__ == "__main__":
    _guard(int(sys.argv[1]), Path(sys.argv[2]))
