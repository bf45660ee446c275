"""Runs Prefect's server as a child process of one run, for users who have set up no server.

This server starts while the flow's modules are imported, dies with the flow, and outlives a Ctrl-C long enough to store
the run's last state. Prefect can start the same server by itself, but it does so later, imports the server's code into
the flow's process too, and leaves the server behind when the flow is killed.

A server that dies is started again on its database. This process holds the socket on which the servers listen, one
after the other: requests that come between two of them wait for the next, and no other program can take the port.
"""

import atexit
import contextlib
import errno
import gc
import itertools
import logging
import os
import re
import secrets
import select
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import BinaryIO

from flows.server.prefect_environment import import_prefect_without_pandas
from flows.server.server_loss import declare_lost, warn
from tasks.errors import HarvestError
from tasks.parent_death import die_with_parent
from tasks.subprocess_call import how_it_ended
from tasks.time_limits import FACTOR_VARIABLE, time_limit

START_TIMEOUT_SECONDS = 600.0
"""The first start takes 8 to 18 s on a small machine, and minutes on a busy one."""

MAX_RESTARTS = 5
"""How often a server that died is started again in one run."""

_STOP_SECONDS = 5.0
_COLLECTION_INTERVAL_SECONDS = 2.0
_FULL_COLLECTION_EVERY = 30
"""Each 30th garbage collection also looks at old objects."""
_FIRST_COLLECTION_SECONDS = 10.0
"""By then the server has started. The objects that it has made until then stay, and are not looked at again."""
_HOST = "127.0.0.1"
_DATABASE = "prefect.db"
_LONGEST_DATABASE_PATH = 504
"""In bytes: SQLite takes 512, with the suffix of the journal."""
_SERVER_VARIABLES = {
    # as Prefect does for a server that it starts itself: no UI, and settings that do not change any more
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # no block is made here, and in a new database their types are a quarter of the start; a server that the user starts
    # there later must not take it for done
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
_STARTED = b"started"
_LONGEST_REASON = 1000
_ERROR_LINE = re.compile(r"^[A-Za-z_][\w.]*: (.+)$", re.MULTILINE)
"""The line of a traceback that has the error: its type and message."""


class EmbeddedServer:
    """A server on a free local port. Its database is in ``PREFECT_HOME``, which ``environment`` must set.

    It serves only who knows a secret, which is made here and is kept in environment variables alone: the database holds
    the parameters of all runs, and whoever may write can change the state of this one.

    ``PREFECT_API_URL`` and ``PREFECT_API_AUTH_STRING`` are set in ``environment``. Call ``wait_until_ready`` before the
    first request. Raises HarvestError when the home or the port cannot be used.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._home = Path(environment["PREFECT_HOME"])
        self._log = self._home / "server.log"
        secret = f"harvest:{secrets.token_urlsafe(32)}"
        self._environment = {**environment, **_SERVER_VARIABLES}
        self._environment |= {"PREFECT_SERVER_API_AUTH_STRING": secret, "PREFECT_API_AUTH_STRING": secret}
        self._lock = threading.Lock()
        self._stopped = False
        try:
            self._listener = socket.create_server((_HOST, 0))
        except OSError as error:
            raise HarvestError(f"Prefect's embedded server cannot listen on {_HOST}: {error.strerror}") from error
        self.url = f"http://{_HOST}:{self._listener.getsockname()[1]}/api"
        try:
            self._start(empty_log=True)
        except BaseException:
            self._listener.close()
            raise
        atexit.register(self.stop)
        environment["PREFECT_API_URL"] = self.url
        environment["PREFECT_API_AUTH_STRING"] = secret

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when the server answers; from then on it is started again when it dies, and requests wait for it.

        A server that was killed while it started is started again in this way too. Raises HarvestError, which says why,
        when the server cannot start, or does not within ``timeout`` seconds, by default ``START_TIMEOUT_SECONDS`` times
        the factor of time limits.
        """
        self._wait_until_started(time_limit(START_TIMEOUT_SECONDS) if timeout is None else timeout)
        threading.Thread(target=self._keep_alive, name="embedded-server", daemon=True).start()

    def stop(self) -> None:
        """End the server. May be called more than once."""
        with self._lock:
            self._stopped = True
        self._listener.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self, *, empty_log: bool = False) -> None:
        """Start a process, unless ``stop`` was called. Raises HarvestError when that cannot be done."""
        self._told, tell = os.pipe()
        try:
            for file in self._home.glob(f"{_DATABASE}*"):
                # another run's server may take its journal away
                with contextlib.suppress(FileNotFoundError):
                    file.chmod(0o600)
            with self._open_log() as log, self._lock:
                if empty_log:
                    log.truncate(0)
                if not self._stopped:
                    self._process = self._start_process(log, tell)
        except OSError as error:
            os.close(self._told)
            raise self._cannot_start(f"{error.strerror}: {error.filename}") from error
        finally:
            os.close(tell)

    def _open_log(self) -> BinaryIO:
        """Open the log for appending. Raises OSError, also for a link or a pipe in its place."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._log, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a file", str(self._log))
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "ab")

    def _start_process(self, log: BinaryIO, tell: int) -> "subprocess.Popen[bytes]":
        listen = self._listener.fileno()
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.server.embedded_server", str(os.getpid()), str(listen), str(tell)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(listen, tell),
            umask=0o077,
            # a terminal sends Ctrl-C to the whole process group, and the server must outlive it
            process_group=0,
        )

    def _wait_until_started(self, timeout: float) -> None:
        """Return when the server has started, or was killed while it did. Raises HarvestError when it cannot start."""
        waiting = select.poll()
        waiting.register(self._told, select.POLLIN)
        try:
            # the end of the process closes the pipe
            told = os.read(self._told, _LONGEST_REASON) if waiting.poll(1000 * timeout) else None
        finally:
            os.close(self._told)
        if told is None:
            self._process.kill()
            raise HarvestError(
                f"Prefect's embedded server did not start within {timeout:.0f} s (log: {self._log}). Run the same "
                f"command when the machine is less busy, or with {FACTOR_VARIABLE}=3; or start a server (prefect "
                "server start) and set PREFECT_API_URL"
            )
        if told != _STARTED:
            code = self._process.wait()
            if told or code >= 0:
                raise self._cannot_start(told.decode(errors="replace") or f"it {how_it_ended(code, self._log)}")

    def _cannot_start(self, reason: str) -> HarvestError:
        length = len(os.fsencode(self._home / _DATABASE))
        if length > _LONGEST_DATABASE_PATH:
            reason += f"; the path of its database has {length} bytes, and SQLite takes {_LONGEST_DATABASE_PATH}"
        return HarvestError(
            f"Prefect's embedded server cannot start: {reason} (log: {self._log}). It only records flow runs: set "
            "PREFECT_HOME to another directory for its files, or PREFECT_API_URL to a server of yours"
        )

    def _keep_alive(self) -> None:
        # the kernel ends a server with the thread that started it, so this thread stays until the last one has ended
        for _ in range(MAX_RESTARTS):
            how = how_it_ended(self._process.wait(), self._log)
            if self._stopped:
                return
            warn(f"Prefect's embedded server {how}; it is started again")
            try:
                self._start()
                self._wait_until_started(time_limit(START_TIMEOUT_SECONDS))
            except HarvestError as error:
                self._give_up(str(error))
                return
        self._process.wait()
        self._give_up(f"Prefect's embedded server was started again {MAX_RESTARTS} times and has ended once more")

    def _give_up(self, why: str) -> None:
        if not self._stopped:
            # without it a request fails at once
            self._listener.close()
            declare_lost(why)


def collect_garbage_in_thread() -> None:
    """Collect this process's garbage in a thread of its own, so that the event loop never waits for it.

    When a statement of Prefect fails because SQLite is locked, its traceback becomes garbage that holds a cursor. While
    the cursor's connection waits for the lock, freeing the cursor takes as long as the wait: a minute. On the event
    loop's thread, this would also stop the holder of the lock, and the server would answer nobody for that minute.
    """
    gc.disable()
    threading.Thread(target=_collect_garbage, name="garbage", daemon=True).start()


def _collect_garbage() -> None:
    time.sleep(_FIRST_COLLECTION_SECONDS)
    gc.freeze()
    for number in itertools.count(1):
        time.sleep(_COLLECTION_INTERVAL_SECONDS)
        gc.collect(2 if number % _FULL_COLLECTION_EVERY == 0 else 1)


def main(parent_pid: int, listen: int, tell: int) -> None:
    """Run the server in this process, which dies with ``parent_pid``, on the socket ``listen``.

    Writes to the pipe ``tell`` that the server has started, or else why it has not.
    """
    die_with_parent(parent_pid)
    failure = _Failure()
    try:
        collect_garbage_in_thread()
        import_prefect_without_pandas()
        import uvicorn

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                # Prefect silences the logger that this would go to
                self.lifespan.logger = failure
                await super().startup(sockets)
                # on a busy machine this comes later than the first collection
                gc.freeze()
                os.write(tell, _STARTED)

        config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
        Server(config).run([socket.socket(fileno=listen)])
    except BaseException as error:
        # uvicorn exits after it has logged a failure of Prefect's start
        reason = failure.reason if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            os.write(tell, reason.encode()[:_LONGEST_REASON])
        raise


class _Failure(logging.Logger):
    """Writes to the log why Prefect could not start, and keeps the ``reason``."""

    def __init__(self) -> None:
        super().__init__("start")
        self.reason = ""
        self.addHandler(logging.StreamHandler())

    def handle(self, record: logging.LogRecord) -> None:
        if found := _ERROR_LINE.findall(record.getMessage()):
            self.reason = found[-1]
        super().handle(record)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
