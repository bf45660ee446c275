"""A server that all processes of a test session share: the first that needs it starts it, the last one ends it."""

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.failure_report import shared_logs
from tests.support.left_behind import outlives_the_test
from tests.support.patience import END_SECONDS, is_alive, until_gone

Start = Callable[[Path], tuple[subprocess.Popen[bytes], str]]
"""Starts a server, with its data and ``server.log`` in the folder, and waits until it answers; its process and URL."""


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all processes of this session have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def shared_process(factory: pytest.TempPathFactory, name: str, start: Start) -> Iterator[tuple[str, Path]]:
    """URL and folder of the session's server ``name``."""
    folder = session_folder(factory) / name
    folder.mkdir(exist_ok=True)
    shared_logs.append(folder / "server.log")
    with _record(folder) as record:
        if not record.get("users"):
            process, url = start(folder)
            # so that Python does not miss it: another process of the session may be the one that ends it
            process.returncode = 0
            record |= {"pid": process.pid, "url": url, "users": 0}
        record["users"] += 1
        pid, url = record["pid"], record["url"]
    outlives_the_test(pid)
    try:
        yield url, folder
    finally:
        with _record(folder) as record:
            record["users"] -= 1
            if not record["users"]:
                _end(pid)


@contextlib.contextmanager
def _record(folder: Path) -> Iterator[dict[str, object]]:
    """What the processes of the session know of the server; one of them at a time may read and change it."""
    with (folder / "users.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        record = json.loads(file.read() or "{}")
        try:
            yield record
        finally:
            file.truncate(0)
            file.write(json.dumps(record))


def _end(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        server.terminate()
        if until_gone(lambda: is_alive(server), END_SECONDS):
            server.kill()
