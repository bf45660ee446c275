"""A small HTTP proxy in front of an S3 server, or of Prefect's. It breaks chosen requests in chosen ways."""

import contextlib
import http.client
import math
import re
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.support.patience import HTTP_SECONDS, scaled, until, until_or_limit

Kind = Literal["500", "503", "403", "404", "reset", "hang", "lost_response", "corrupt", "slow", "late"]

_XML = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected {code}</Message></Error>'
_ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "404": (404, "NoSuchUpload"),
}


@dataclass(kw_only=True)
class Fault:
    """Breaks ``times`` requests that match, after ``skip`` that it lets pass.

    ``reset``: the connection breaks in the middle of the body; ``hang``: no answer comes, and then the connection
    breaks; ``lost_response``: the server does the work, but its answer is lost; ``corrupt``: one byte of the body is
    changed, and its checksum header removed; ``slow``: the request is passed on late; ``late``: the answer is.

    The last two, and ``hang``, last until the fault is taken out of the proxy's ``faults``, or for ``seconds`` at most.
    A request whose client has gone meanwhile is dropped.
    """

    kind: Kind
    method: str = ""
    """Any method when empty."""
    path: str = ""
    """Regular expression searched in the path with its query."""
    times: int = 1
    skip: int = 0
    seconds: float = math.inf
    hits: int = field(default=0, init=False)

    def matches(self, method: str, path: str) -> bool:
        return self.method in ("", method) and re.search(self.path, path) is not None


@dataclass(kw_only=True)
class FaultProxy:
    """A running proxy. ``requests`` has every request that it received, as (method, path, body length)."""

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    num_pending: int = 0
    """Requests without an answer yet. Those of a killed client may still be passed on."""

    @contextlib.contextmanager
    def pending_request(self) -> Iterator[None]:
        with self.lock:
            self.num_pending += 1
        try:
            yield
        finally:
            with self.lock:
                self.num_pending -= 1

    def wait_until_idle(self) -> None:
        until(lambda: self.num_pending == 0, "every request that the proxy received is answered or dropped")

    def has(self, fault: Fault) -> bool:
        """Tell whether ``fault`` itself, not one like it, is among the faults."""
        with self.lock:
            return any(each is fault for each in self.faults)

    def choose(self, method: str, path: str, length: int) -> Fault | None:
        with self.lock:
            self.requests.append((method, path, length))
            for fault in self.faults:
                if fault.matches(method, path):
                    fault.hits += 1
                    if fault.skip < fault.hits <= fault.skip + fault.times:
                        return fault
        return None

    def sent(self, method: str = "PUT") -> list[str]:
        """Paths, without the query, of the requests with this method."""
        with self.lock:
            return [urlsplit(path).path for each, path, _ in self.requests if each == method]


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A running proxy in front of the S3 server at ``upstream``."""
    target = urlsplit(upstream)

    class Handler(_Handler):
        upstream_address = (str(target.hostname), int(target.port or 80))

    server = _Server(("127.0.0.1", 0), Handler)
    Handler.proxy = FaultProxy(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Handler.proxy
    finally:
        Handler.proxy.faults.clear()
        server.shutdown()
        server.server_close()
        # nothing reaches the S3 server after its test
        Handler.proxy.wait_until_idle()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken connections are the purpose of this server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy
    upstream_address: tuple[str, int]

    def handle_any(self) -> None:
        with self.proxy.pending_request():
            self._handle()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.proxy.choose(self.command, self.path, length)
        kind = fault.kind if fault else None
        if kind == "reset" and length:
            self.rfile.read(length // 2)
            self._break()
            return
        body = self.rfile.read(length)
        if len(body) < length:
            # the client was killed; the S3 server would wait for the rest
            self._break()
            return
        if fault and kind in ("hang", "slow"):
            self._hold(fault)
        if kind == "hang" or self._client_has_gone():
            self._break()
        elif kind in _ANSWERS:
            status, code = _ANSWERS[kind]
            self._answer(status, [("Content-Type", "application/xml")], _XML.format(code=code).encode())
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        headers = dict(self.headers.items())
        if kind == "corrupt" and body:
            headers.pop("Content-MD5", None)
            body = bytes([body[0] ^ 1]) + body[1:]
        connection = http.client.HTTPConnection(*self.upstream_address, timeout=scaled(HTTP_SECONDS))
        connection.request(self.command, self.path, body=body, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if fault and kind == "late":
            self._hold(fault)
        if kind == "lost_response":
            self._break()
            return
        answered = [(name, value) for name, value in answer.getheaders() if name.lower() != "transfer-encoding"]
        if kind == "reset":
            self._answer(answer.status, answered, data, cut=True)
            return
        self._answer(answer.status, answered, data)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection"):
                self.send_header(name, value)
        announced = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", announced if self.command == "HEAD" and announced else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self._break()

    def _hold(self, fault: Fault) -> None:
        until_or_limit(lambda: self.proxy.has(fault) and not self._client_has_gone(), fault.seconds)

    def _client_has_gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and self.connection.recv_into(bytearray(1), flags=socket.MSG_PEEK) == 0
        except ConnectionError:
            return True

    def _break(self) -> None:
        """Reset the connection instead of closing it in order."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: ``requests`` has them all."""
