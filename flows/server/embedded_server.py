"""Prefect's own server as a child of one run, for whoever has set none up.

Prefect would start the same server by itself, but only once the flow begins, after importing all of the server's code
into the flow's process as well, and it leaves the server behind when the flow is killed. Here it starts beside the
flow's imports, dies with the flow, and outlives a Ctrl-C long enough for the run's last state to be stored.
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

START_TIMEOUT_SECONDS = 300.0
"""It takes 8 to 18 s at first use on a small machine, and minutes on one that is busy."""

_STOP_SECONDS = 5.0
_COLLECT_SECONDS = 2.0
_FULL_COLLECTIONS = 30
"""One collection in so many looks at old objects as well."""
_START_SECONDS = 10.0
_HOST = "127.0.0.1"
# as Prefect starts its own: no UI, and settings that do not change any more
_SERVER_VARIABLES = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class EmbeddedServer:
    """A server on a free local port with its database in ``PREFECT_HOME``, which ``environment`` must set."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._log = Path(environment["PREFECT_HOME"]) / "server.log"
        # bound but not listening until the server is up: so nobody else gets the port, and the server still can
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
                # a terminal sends Ctrl-C to the whole group
                process_group=0,
            )
        atexit.register(self.stop)
        self.url = f"http://{_HOST}:{number}/api"
        environment["PREFECT_API_URL"] = self.url

    def wait_until_ready(self, timeout: float = START_TIMEOUT_SECONDS) -> None:
        """Return when the server answers.

        Raises:
            HarvestError: it ended, or does not answer within ``timeout`` seconds; the server's log is named.
        """
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise HarvestError(
                    f"Prefect's embedded server ended with code {self._process.returncode}: {self._last_words()} "
                    f"(log: {self._log})"
                )
            if time.monotonic() > deadline:
                raise HarvestError(
                    f"Prefect's embedded server did not start within {timeout:.0f} s (log: {self._log}). Run the same "
                    "command when the machine is less busy, or start a server (prefect server start) and set "
                    "PREFECT_API_URL"
                )
            time.sleep(0.1)
        self._port.close()

    def stop(self) -> None:
        """End the server; may be called again."""
        self._port.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == http.client.OK)
        except (OSError, http.client.HTTPException):
            return False

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def collect_garbage_in_thread() -> None:
    """Have this process's garbage collected by a thread that does nothing else.

    Where a statement of Prefect's fails because SQLite is locked, its traceback is garbage that holds a cursor. To free
    one of a connection that waits for the lock takes as long as that waits, which is a minute. On the event loop's
    thread nothing goes on meanwhile, the lock's holder included: the server answers nobody for that minute.
    """
    gc.disable()
    threading.Thread(target=_collect, name="garbage", daemon=True).start()


def _collect() -> None:
    # what is there after the start is the server itself, and stays
    time.sleep(_START_SECONDS)
    gc.freeze()
    for number in itertools.count(1):
        time.sleep(_COLLECT_SECONDS)
        gc.collect(2 if number % _FULL_COLLECTIONS == 0 else 1)


def main(parent_pid: int, port: int) -> None:
    """The server's process."""
    die_with_parent(parent_pid)
    collect_garbage_in_thread()
    import_prefect_without_pandas()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host=_HOST, port=port, log_level="error", lifespan="on"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
