"""The telemetry of the nodes of one replica as that of one node with the GPUs of all."""

import io
from collections.abc import Sequence

import polars as pl

from tasks.node.telemetry import parse_telemetry

_GPUS = pl.col("source") != "replica"


def join_telemetry(first: bytes | None, others: Sequence[bytes | None]) -> bytes | None:
    """Return the telemetry file of all; None when one is missing, as a part would look like the whole.

    The samples of the others count for the moment of the first node's that is nearest: they were taken beside it. Their
    devices get further indices.
    """
    if first is None:
        return None
    try:
        joined = parse_telemetry(io.BytesIO(first))
        moments = joined.select("time", "session").unique().sort("time")
        for data in others:
            if data is None:
                return None
            further = int(joined.filter(_GPUS)["index"].max() or 0) + 1  # type: ignore[arg-type]  # an Int32 column
            found = parse_telemetry(io.BytesIO(data)).filter(_GPUS).drop("session").sort("time")
            placed = found.join_asof(moments.with_columns(moment="time"), on="time", strategy="nearest")
            placed = placed.with_columns(time="moment", index=(pl.col("index") + further).cast(pl.Int32))
            joined = pl.concat([joined, placed.select(joined.columns)])
    except ValueError:
        return None
    written = io.BytesIO()
    joined.sort("time", maintain_order=True).write_parquet(written)
    return written.getvalue()
