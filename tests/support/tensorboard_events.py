"""Reads what a run logged to TensorBoard."""

import struct
from collections.abc import Iterator
from pathlib import Path


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield tag, step and value of each scalar in the event files of a folder, in the order of writing."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            yield from ((each.tag, event.step, each.simple_value) for each in event.summary.value)
