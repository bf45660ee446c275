"""Runs Prefect's server as a child process of one run, for users who have set up no server.

This server starts while the flow's modules are imported, dies with the flow, and outlives a Ctrl-C long enough to store
the run's last state. Prefect can start the same server by itself, but it does so later, imports the server's code into
the flow's process too, and leaves the server behind when the flow is killed.
"""

import atexit
import gc
import http.client
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import MutableMapping
from pathlib import Path

from flows.server.prefect_environment import import_prefect_without_pandas
from tasks.errors import HarvestError
from tasks.parent_death import die_with_parent
from tasks.time_limits import FACTOR_VARIABLE, time_limit

START_TIMEOUT_SECONDS = 600.0
"""The first start takes 8 to 18 s on a small machine, and minutes on a busy one."""

_ANSWER_SECONDS = 60.0
"""How long one answer of the server may take. Nothing listens before the server is up, so no time is lost by it."""

_STOP_SECONDS = 5.0
_COLLECTION_INTERVAL_SECONDS = 2.0
_FULL_COLLECTION_EVERY = 30
"""Each 30th garbage collection also looks at old objects."""
_FIRST_COLLECTION_SECONDS = 10.0
"""By then the server has started. The objects that it has made until then stay, and are not looked at again."""
_HOST = "127.0.0.1"
# as Prefect does for a server that it starts itself: no UI, and settings that do not change any more
_SERVER_VARIABLES = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class EmbeddedServer:
    """A server on a free local port. Its database is in ``PREFECT_HOME``, which ``environment`` must set.

    ``PREFECT_API_URL`` is set in ``environment``. Call ``wait_until_ready`` before the first request.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._log = Path(environment["PREFECT_HOME"]) / "server.log"
        # the port is bound but not listening until the server is up, so that nobody else can take it
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind((_HOST, 0))
        number = self._port.getsockname()[1]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.server.embedded_server", str(os.getpid()), str(number)],
                env={**environment, **_SERVER_VARIABLES},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # a terminal sends Ctrl-C to the whole process group, and the server must outlive it
                process_group=0,
            )
        atexit.register(self.stop)
        self.url = f"http://{_HOST}:{number}/api"
        environment["PREFECT_API_URL"] = self.url

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when the server answers.

        Raises HarvestError, which names the server's log, when the server ended or does not answer within ``timeout``
        seconds, by default ``START_TIMEOUT_SECONDS`` times the factor of time limits.
        """
        timeout = time_limit(START_TIMEOUT_SECONDS) if timeout is None else timeout
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise HarvestError(
                    f"Prefect's embedded server ended with code {self._process.returncode}: {self._last_log_line()} "
                    f"(log: {self._log})"
                )
            if time.monotonic() > deadline:
                raise HarvestError(
                    f"Prefect's embedded server did not start within {timeout:.0f} s (log: {self._log}). Run the same "
                    f"command when the machine is less busy, or with {FACTOR_VARIABLE}=3; or start a server (prefect "
                    "server start) and set PREFECT_API_URL"
                )
            time.sleep(0.1)
        self._port.close()

    def stop(self) -> None:
        """End the server. May be called more than once."""
        self._port.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=time_limit(_ANSWER_SECONDS)) as answer:
                return bool(answer.status == http.client.OK)
        except (OSError, http.client.HTTPException):
            return False

    def _last_log_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "its log is empty"


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


def main(parent_pid: int, port: int) -> None:
    """Run the server in this process, which dies with ``parent_pid``."""
    die_with_parent(parent_pid)
    collect_garbage_in_thread()
    import_prefect_without_pandas()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host=_HOST, port=port, log_level="error", lifespan="on"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
