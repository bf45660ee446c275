"""A web hook on this machine, as chat services have them. It keeps what is posted to it."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.patience import HangError, until

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

    def wait_for(self, subject: str, part: str) -> str:
        """The body of the notification with this subject and ``part`` in its body. Waits for it."""

        def matching() -> list[str]:
            return [body for found, body in list(self.received) if found == subject and part in body]

        try:
            return until(matching, f"notification {subject!r} with {part!r}")[0]
        except HangError as error:
            raise HangError(f"{error}\nreceived: {self.received}") from None


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
