"""The script of the process that writes to one tracker; nothing of ours is imported there.

It reads messages from its standard input, a JSON object each line, and ends with the input. What a tracker's library
does, hangs included, happens here and not in the flow's process.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Protocol, TextIO

Values = dict[str, float]


class Writer(Protocol):
    """Writes one run to a tracker."""

    def log(self, step: int, values: Values) -> None: ...
    def finish(self, step: int, values: Values, text: dict[str, str]) -> None: ...
    def leave(self) -> None:
        """End a run that is not finished."""
        ...


class TensorBoardWriter:
    """Writes event files to a directory: that of the run, or one named for the run below that which was given."""

    def __init__(self, begin: dict[str, Any], place: str) -> None:
        # tensorboardX would import torch, which takes seconds and is not used
        sys.modules["torch"] = None  # type: ignore[assignment]
        import tensorboardX

        self._open = tensorboardX.SummaryWriter
        self._folder = Path(place) / begin["run_id"] if place else Path(begin["run_dir"]) / "tensorboard"
        self._is_new = not any(self._folder.glob("events.*"))
        self._config = begin["config"]
        self._writer: Any = None

    def log(self, step: int, values: Values) -> None:
        if self._writer is None:
            # a resumed run may log a step again: a reader then drops what was logged from there on
            self._writer = self._open(str(self._folder), purge_step=None if self._is_new else step)
            if self._is_new:
                self._writer.add_text("config", _code(self._config), 0)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, step: int, values: Values, text: dict[str, str]) -> None:
        self.log(step, {f"final/{name}": value for name, value in values.items()})
        self._writer.add_text("final", _code(text), step)
        self._writer.close()

    def leave(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbWriter:
    """Writes a run of Weights & Biases whose id is that of the run."""

    def __init__(self, begin: dict[str, Any], place: str) -> None:
        import wandb

        run_id = begin["run_id"]
        self._run = wandb.init(
            project=place,
            id=run_id,
            name=run_id,
            group=begin["group"],
            resume="allow",
            reinit="create_new",
            dir=os.environ.get("WANDB_DIR") or begin["logs"],
            config=begin["config"],
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, values: Values) -> None:
        # W&B itself drops a step that it has
        self._run.log(values, step=step)

    def finish(self, step: int, values: Values, text: dict[str, str]) -> None:
        self._run.summary.update({**{f"final/{name}": value for name, value in values.items()}, **text})
        self._run.finish()

    def leave(self) -> None:
        self._run.finish(exit_code=1)


WRITERS = {"tensorboard": TensorBoardWriter, "wandb": WandbWriter}


def main(tracker: str, place: str, end_seconds: float) -> None:
    """Write all messages, and end at most ``end_seconds`` after the last one."""
    # Ctrl-C reaches all processes of a terminal; the flow decides when this one ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.excepthook = _end_with_thread
    messages = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # no library may ask for a password there
    received: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(messages, received, end_seconds), daemon=True).start()
    writers: dict[str, Writer] = {}
    # a flow that was killed may leave a part of a line
    while (line := received.get()).endswith("\n"):
        _handle(json.loads(line), writers, WRITERS[tracker], place)
    for writer in writers.values():
        writer.leave()


def _receive(messages: TextIO, received: "queue.SimpleQueue[str]", end_seconds: float) -> None:
    """Take lines from the pipe while the tracker works, so that the end is seen even if the tracker hangs."""
    while line := messages.readline():
        received.put(line)
    received.put("")
    limit = threading.Timer(end_seconds, os._exit, [1])
    limit.daemon = True
    limit.start()


def _handle(message: dict[str, Any], writers: dict[str, Writer], kind: Any, place: str) -> None:
    run_id = message["run_id"]
    if run_id not in writers:
        writers[run_id] = kind(message["begin"], place)
    if message["text"] is None:
        writers[run_id].log(message["step"], message["values"])
    else:
        writers.pop(run_id).finish(message["step"], message["values"], message["text"])


def _code(value: Any) -> str:
    """Return ``value`` as JSON in a block of code of Markdown."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2).splitlines())


def _end_with_thread(failed: threading.ExceptHookArgs) -> None:
    """End the process when a thread of a library fails, such as one that finds the disk full."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
