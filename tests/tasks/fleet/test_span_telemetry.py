"""The telemetry of the nodes of one replica reads as that of one node with all of their GPUs."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from profiles.schema import Profile
from tasks.fleet.span_telemetry import join_telemetry
from tasks.node.telemetry import TELEMETRY_SCHEMA, parse_telemetry
from tasks.node.telemetry_summary import summarize_telemetry

START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 10


def file_of(gpus: int, *, utilization: float, late_ms: int = 0, replica: bool = False) -> bytes:
    """Ten seconds of a node with so many GPUs, whose sampler began ``late_ms`` milliseconds after the others."""
    rows = []
    for second in range(SECONDS):
        now = {"time": START + timedelta(seconds=second, milliseconds=late_ms), "session": START}
        load = {"source": "gpu", "utilization_percent": utilization, "memory_used": 1 << 30}
        rows += [now | load | {"index": index} for index in range(gpus)]
        if replica:
            rows.append(now | {"source": "replica", "index": 0, "running": 4, "generation_tokens": 10 * second})
    written = io.BytesIO()
    pl.DataFrame(rows, schema=TELEMETRY_SCHEMA).write_parquet(written)
    return written.getvalue()


def test_the_gpus_of_all_nodes_count_for_the_same_seconds(tmp_path: Path) -> None:
    first = file_of(2, utilization=90, replica=True)
    others = [file_of(2, utilization=70, late_ms=400), file_of(2, utilization=80, late_ms=300)]
    joined = join_telemetry(first, others)
    assert joined is not None
    frame = parse_telemetry(io.BytesIO(joined))
    gpus = frame.filter(pl.col("source") == "gpu")
    assert sorted(gpus["index"].unique()) == [0, 1, 2, 3, 4, 5]
    assert gpus.height == 6 * SECONDS
    path = tmp_path / "telemetry.parquet"
    path.write_bytes(joined)
    summary = summarize_telemetry(path, Profile(name="x", gpu_hour_usd=3600.0))
    assert (summary.gpus, summary.elapsed_s, summary.idle_s, summary.generation_tokens) == (6, 10.0, 0.0, 90)
    assert (summary.gpu_seconds, summary.cost_usd, summary.utilization_percent) == (60.0, 60.0, 80.0)


def test_a_part_is_not_taken_for_the_whole() -> None:
    whole = file_of(1, utilization=90, replica=True)
    assert join_telemetry(None, [whole]) is None
    assert join_telemetry(whole, [whole, None]) is None
    assert join_telemetry(whole, [b"damaged"]) is None
