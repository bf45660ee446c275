"""A web hook on this machine, as chat services have them. It keeps what is posted to it."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Notification = tuple[str, str]
"""Subject and body."""


class Webhook(ThreadingHTTPServer):
    """Takes JSON objects with ``subject`` and ``body``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Notification] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def wait_for(self, subject: str, within: str, seconds: float = 120) -> str:
        """The body of the notification with this subject and ``within`` in its body. Waits for it."""
        deadline = time.monotonic() + seconds
        while True:
            for found, body in list(self.received):
                if found == subject and within in body:
                    return body
            assert time.monotonic() < deadline, f"no {subject!r} with {within!r} among {self.received}"
            time.sleep(0.2)


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((sent["subject"], sent["body"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        return


@contextlib.contextmanager
def running_webhook() -> Iterator[Webhook]:
    with Webhook() as hook:
        thread = threading.Thread(target=hook.serve_forever, daemon=True)
        thread.start()
        try:
            yield hook
        finally:
            hook.shutdown()
            thread.join()
