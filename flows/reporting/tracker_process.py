"""A tracker in a process of its own, fed by a thread: nothing that it does can delay or fail the run."""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from flows.reporting.tracker_targets import TrackerTarget
from tasks.plain_text import one_line
from tasks.process_tree import ProcessRecord, kill_all

_CHILD = Path(__file__).with_name("tracker_child.py")
_KILL_SECONDS = 5.0


class TrackerProcess:
    """Writes messages to ``target``. Its methods never block, but for ``close``, and never raise."""

    def __init__(self, target: TrackerTarget, log: Path, end_seconds: float) -> None:
        """``log`` gets what the tracker's library prints; it has ``end_seconds`` after the last message."""
        self.target = target
        self.log = log
        self.failure: str | None = None
        """Why nothing more is logged; None while all is well."""
        self._end_seconds = end_seconds
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def send(self, message: dict[str, Any]) -> None:
        if self.failure is None:
            self._messages.put(message)
            if not self._thread.is_alive():
                self._thread.start()

    def end(self) -> None:
        """Say that no message follows. The process goes on with those that it has."""
        self._messages.put(None)

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for the process to end after ``end``, then kill it."""
        if not self._thread.is_alive():
            return
        self._thread.join(timeout)
        if self._thread.is_alive() and self._process is not None:
            self.failure = f"it did not end within {timeout:.0f} s"
            record = ProcessRecord.of(self._process.pid)
            if record is not None:
                kill_all([record], _KILL_SECONDS)
            self._thread.join(_KILL_SECONDS)

    def _run(self) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as log:
                began = log.tell()
                command = [
                    sys.executable,
                    "-P",
                    str(_CHILD),
                    self.target.tracker,
                    self.target.place,
                    str(self._end_seconds),
                ]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True
                )
            code = self._feed(self._process)
            if code and self.failure is None:
                self.failure = self._last_line(began) or f"its process ended with exit code {code}"
        except OSError as error:
            self.failure = str(error)

    def _feed(self, process: "subprocess.Popen[str]") -> int:
        """Write the messages until the last one, and wait for the end of the process; return its exit code."""
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                while (message := self._messages.get()) is not None:
                    pipe.write(json.dumps(message) + "\n")
                    pipe.flush()
        except BrokenPipeError:
            pass  # the exit code says more
        return process.wait()

    def _last_line(self, began: int) -> str:
        with self.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(began)
            lines = log.read().strip().splitlines()
        return one_line(lines[-1], 300) if lines else ""
