"""The server of ``harvest view``: reads runs, changes nothing, and answers this machine alone.

It listens on the loopback interface. A page of another site could still have the browser ask it, under a name of its
own that leads here (DNS rebinding): so only the names of this machine are answered. Any port is: it may be forwarded.
"""

import contextlib
import logging
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from tasks.errors import ConfigError, HarvestError
from tasks.results.page_template import content_policy
from tasks.viewing.run_pages import NoSuchPage, RunPages

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
_NAMES = frozenset({ADDRESS, "localhost"})
_IDLE_SECONDS = 30
_MOST_FIELDS = 20
_AT_ONCE = 4
"""Pages that are made at the same time; each may hold a shard."""


class RunServer(ThreadingHTTPServer):
    """Serves the runs of a directory on ``port``; 0 is any free port. Raises ConfigError if it cannot listen there."""

    daemon_threads = True
    # nobody waits for the last answers when the server is stopped
    block_on_close = False

    def __init__(self, runs_dir: Path, port: int) -> None:
        self.pages = RunPages(runs_dir=runs_dir)
        self.making = threading.BoundedSemaphore(_AT_ONCE)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"--port {port} of {ADDRESS} cannot be used: {error.strerror}. Give another, or 0 for any that is free"
            ) from None

    def server_bind(self) -> None:
        """Bind, without the look-up of this machine's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what no answer could say; a browser that went away is nothing."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            logger.exception("a request could not be answered")


class _Handler(BaseHTTPRequestHandler):
    server: RunServer
    timeout = _IDLE_SECONDS
    server_version = "harvest"
    sys_version = ""
    _HEADERS: ClassVar = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Content-Security-Policy": f"{content_policy(served=True)}; frame-ancestors 'none'",
    }

    def do_GET(self) -> None:
        status, page = self._answer()
        data = page.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in self._HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self) -> tuple[HTTPStatus, str]:
        pages = self.server.pages
        if not self._is_asked_by_name():
            return HTTPStatus.MISDIRECTED_REQUEST, pages.problem(
                "This server answers to the names of its own machine only: localhost and 127.0.0.1."
            )
        try:
            address = urlsplit(self.path)
            query = parse_qsl(address.query, max_num_fields=_MOST_FIELDS)
        except ValueError:
            return HTTPStatus.BAD_REQUEST, pages.problem("The address cannot be read.")
        chosen = tuple(value for name, value in query if name == "run")
        try:
            with self.server.making:
                return HTTPStatus.OK, pages.page(address.path, dict(query), chosen)
        except NoSuchPage as error:
            return HTTPStatus.NOT_FOUND, pages.problem(f"{error}.")
        except HarvestError as error:
            return HTTPStatus.CONFLICT, pages.problem(f"{error}.")
        except BaseException as error:
            if _is_of_files(error):
                reason = str(error).strip().partition("\n")[0]
                return HTTPStatus.CONFLICT, pages.problem(
                    f"The run's files are damaged, or changed or went away meanwhile: {reason}. Load the page again."
                )
            if not isinstance(error, Exception):
                raise
            logger.exception("%s could not be shown", self.path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, pages.problem("harvest view has a fault; its terminal tells more.")

    def _is_asked_by_name(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        with contextlib.suppress(ValueError):
            return len(hosts) == 1 and urlsplit(f"//{hosts[0]}").hostname in _NAMES
        return False

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests: the terminal is the user's."""


def _is_of_files(error: BaseException) -> bool:
    """Return whether the files of a run caused the error. Polars' PanicException is no Exception."""
    import polars as pl
    import pyarrow as pa

    return isinstance(error, OSError | pl.exceptions.PolarsError | pl.exceptions.PanicException | pa.ArrowException)
