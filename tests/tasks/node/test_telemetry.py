import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from profiles.schema import Profile
from tasks.node.telemetry import TELEMETRY_SCHEMA, ReplicaStats, TelemetrySampler, load_telemetry
from tasks.node.telemetry_summary import summarize_telemetry
from tasks.units import GIB
from tests.support.fake_nvml import FakeReader, healthy
from tests.support.patience import until

CPU = Profile.model_validate({"name": "cpu", "expect": {"device": "cpu"}})
H100 = Profile.model_validate(
    {
        "name": "h100",
        "replicas": 2,
        "gpu_hour_usd": 3.6,
        "expect": {"gpu_count": 2},
        "targets": {"gpu_memory_gib": [70, 76], "gpu_utilization_percent": [90, 98], "max_temperature_c": 85},
    }
)


def stats(replica: int = 0, **changes: Any) -> ReplicaStats:
    values = {
        "running": 4, "waiting": 1, "kv_cache_usage": 0.5, "preemptions": 0,
        "prefix_cache_hits": 0, "prefix_cache_queries": 0, "generation_tokens": 100,
    }  # fmt: skip
    return ReplicaStats(replica=replica, **(values | changes))


def sampler(path: Path, profile: Profile, **more: Any) -> TelemetrySampler:
    return TelemetrySampler(path, profile, lambda: [stats(0), stats(1)], interval_s=0.02, **more)


def test_gpu_and_replica_rows_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.parquet"
    with sampler(path, H100, reader=FakeReader(gpus=[healthy(0), healthy(1), healthy(2)])):
        pass
    frame = pl.read_parquet(path)
    assert frame.schema == TELEMETRY_SCHEMA
    assert set(frame.select("source", "index").unique().rows()) == {
        ("gpu", 0), ("gpu", 1), ("replica", 0), ("replica", 1),
    }  # fmt: skip
    gpu = frame.filter(pl.col("source") == "gpu").row(0, named=True)
    assert (gpu["utilization_percent"], gpu["memory_used"], gpu["running"]) == (95, 551 << 20, None)


def test_host_is_recorded_where_there_is_no_gpu(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.parquet"
    child = subprocess.Popen([sys.executable, "-c", "b = bytearray(200 << 20); input()"], stdin=subprocess.PIPE)
    try:
        until(lambda: resident(child.pid) > 200 << 20, "a child that uses 200 MiB", alive=[child])
        with sampler(path, CPU):
            pass
    finally:
        child.communicate(b"\n")
    host = pl.read_parquet(path).filter(pl.col("source") == "host")
    assert host.get_column("memory_used").max() > 200 << 20  # type: ignore[operator]
    assert host.get_column("utilization_percent").null_count() == 0


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_file_is_published_while_running_and_continued_later(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.parquet"
    first = sampler(path, CPU, publish_every_s=0.05)
    first.start()
    until(path.exists, "a published file")
    first.stop()
    rows = pl.read_parquet(path).height
    with sampler(path, CPU):
        pass
    frame = pl.read_parquet(path)
    assert frame.height > rows
    assert frame.get_column("session").n_unique() == 2
    assert first.stop() is None


def test_errors_of_telemetry_never_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Event()

    def failing() -> list[ReplicaStats]:
        asked.set()
        raise RuntimeError("replica is gone")

    (tmp_path / "file").write_text("")
    lost = TelemetrySampler(tmp_path / "file" / "telemetry.parquet", CPU, failing, interval_s=0.01)
    with lost:
        until(asked.is_set, "a sample")
    assert "replica is gone" in caplog.text
    assert "telemetry is not saved" in caplog.text


@pytest.mark.parametrize("wrong", [{"generation_tokens": 2**70}, {"kv_cache_usage": "half"}])
def test_a_value_that_fits_no_column_loses_only_its_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    path = tmp_path / "telemetry.parquet"
    answers = [[stats(0)], [stats(0, **wrong)], [stats(1)]]
    asked: list[list[ReplicaStats]] = []

    def answer() -> list[ReplicaStats]:
        asked.append(answers[min(len(asked), 2)])
        return asked[-1]

    with TelemetrySampler(path, CPU, answer, interval_s=0.01) as running:
        until(lambda: len(asked) > 2, "a sample after the wrong one")
    assert running.stop() is None
    replicas = pl.read_parquet(path).filter(pl.col("source") == "replica")["index"].to_list()
    assert replicas[:2] == [0, 1]
    assert caplog.text.count("a telemetry sample failed") == 1


def test_unreadable_earlier_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.parquet"
    path.write_bytes(b"torn")
    with sampler(path, CPU):
        pass
    assert pl.read_parquet(path).schema == TELEMETRY_SCHEMA


START = datetime(2026, 1, 1, tzinfo=UTC)


def row(second: float, source: str, index: int, *, session: int = 0, **values: Any) -> dict[str, Any]:
    began = START + timedelta(hours=session)
    return {"time": began + timedelta(seconds=second), "session": began, "source": source, "index": index, **values}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows, schema=TELEMETRY_SCHEMA).write_parquet(path)
    return path


def gpu_row(second: float, index: int, *, session: int = 0, **changes: Any) -> dict[str, Any]:
    values = {"utilization_percent": 95.0, "memory_used": 73 * GIB, "temperature_c": 70, "power_w": 600.0}
    return row(second, "gpu", index, session=session, **(values | changes))


def replica_row(
    second: float, index: int, tokens: int, running: int, *, session: int = 0, **more: Any
) -> dict[str, Any]:
    values = {"running": running, "waiting": 0, "kv_cache_usage": 0.5, "preemptions": 0, "generation_tokens": tokens}
    return row(second, "replica", index, session=session, **(values | more))


def run_of(seconds: int, *, startup: int = 2, session: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Two GPUs and two replicas; each replica makes 100 tokens a second after the start-up."""
    rows: list[dict[str, Any]] = []
    for second in range(seconds):
        busy = second >= startup
        idle = {} if busy else {"utilization_percent": 0.0, "memory_used": GIB}
        rows += [gpu_row(second, gpu, session=session, **(changes | idle)) for gpu in range(2)]
        tokens = 100 * max(0, second - startup + 1)
        rows += [replica_row(second, replica, tokens, 8 if busy else 0, session=session) for replica in range(2)]
    return rows


def test_summary_of_a_healthy_run(tmp_path: Path) -> None:
    summary = summarize_telemetry(write(tmp_path / "t.parquet", run_of(10)), H100, rollouts=100, correct=50)
    assert (summary.gpus, summary.elapsed_s, summary.idle_s) == (2, 10, 2)
    assert summary.utilization_percent == 95  # the start-up does not count
    assert summary.memory_gib == 73
    assert summary.running == 16
    assert summary.generation_tokens == 1600
    assert summary.tokens_per_s == 200
    assert summary.gpu_seconds == 20  # the start-up counts
    assert summary.gpu_seconds_per_token == pytest.approx(16 / 1600)  # and here it does not
    assert summary.gpu_seconds_per_rollout == 0.2
    assert summary.gpu_seconds_per_correct == 0.4
    assert summary.cost_usd == pytest.approx(20 / 3600 * 3.6)
    assert [target.met for target in summary.targets] == [True, True, True]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"memory_used": 60 * GIB}, "memory"),
        ({"memory_used": 78 * GIB}, "memory"),
        ({"utilization_percent": 70.0}, "utilization"),
        ({"temperature_c": 86}, "temperature"),
    ],
)
def test_missed_targets_are_marked(tmp_path: Path, changes: dict[str, Any], name: str) -> None:
    summary = summarize_telemetry(write(tmp_path / "t.parquet", run_of(10, **changes)), H100)
    assert {target.name for target in summary.targets if target.met is False} == {name}


def test_one_weak_gpu_misses_the_target(tmp_path: Path) -> None:
    rows = [item for item in run_of(6) if item["source"] == "replica" or item["index"] == 0]
    rows += [gpu_row(second, 1, utilization_percent=40.0) for second in range(6)]
    (memory, utilization, _) = summarize_telemetry(write(tmp_path / "t.parquet", rows), H100).targets
    assert memory.met
    assert (utilization.lowest, utilization.highest, utilization.met) == (40, 95, False)


def test_restarted_replica_and_resumed_run_are_summed(tmp_path: Path) -> None:
    counts = [(0, 100), (1, 300), (2, 50), (3, 150)]  # restarted between seconds 1 and 2
    rows = [replica_row(second, 0, tokens, 4, preemptions=tokens // 50) for second, tokens in counts]
    rows += [replica_row(second, 0, 70, 4, session=1) for second in range(2)]
    rows += [gpu_row(second, 0) for second in range(4)] + [gpu_row(second, 0, session=1) for second in range(2)]
    summary = summarize_telemetry(write(tmp_path / "t.parquet", rows), H100)
    assert summary.generation_tokens == 300 + 150 + 70
    assert summary.preemptions == 6 + 3
    assert summary.elapsed_s == 6  # the hour between the sessions is not counted


def test_prefix_cache_hit_rate(tmp_path: Path) -> None:
    cache = [
        {"prefix_cache_hits": 0, "prefix_cache_queries": 100},
        {"prefix_cache_hits": 90, "prefix_cache_queries": 200},
    ]
    rows = [replica_row(second, 0, 10, 1, **values) for second, values in enumerate(cache)]
    summary = summarize_telemetry(write(tmp_path / "t.parquet", rows), CPU)
    assert summary.prefix_cache_hit_rate == 0.45


def test_nothing_recorded_leaves_targets_undecided(tmp_path: Path) -> None:
    summary = summarize_telemetry(write(tmp_path / "t.parquet", [row(0, "host", 0, memory_used=GIB)]), H100)
    assert [target.met for target in summary.targets] == [None, None, None]
    assert summary.gpu_seconds is summary.cost_usd is summary.tokens_per_s is summary.gpu_seconds_per_token is None
    assert summary.memory_gib == 1
    empty = summarize_telemetry(write(tmp_path / "e.parquet", []), H100)
    assert empty.elapsed_s == 0


def test_the_share_of_steps_in_a_cuda_graph(tmp_path: Path) -> None:
    counts = [(0, 0), (80, 60), (200, 170)]
    rows = [
        replica_row(second, 0, 10, 1, steps=steps, graph_steps=in_graph)
        for second, (steps, in_graph) in enumerate(counts)
    ]
    assert summarize_telemetry(write(tmp_path / "t.parquet", rows), CPU).graph_step_share == 0.85


def test_telemetry_of_earlier_releases_has_no_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [replica_row(0, 0, 10, 1)])
    pl.read_parquet(path).drop("steps", "graph_steps").write_parquet(path)
    assert load_telemetry(path).schema == TELEMETRY_SCHEMA
    assert summarize_telemetry(path, CPU).graph_step_share is None
