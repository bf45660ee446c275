"""Records the load of the hardware and the engines once a second, in one Parquet file.

The file shows whether a run used its GPUs well, and what a rollout cost.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import polars as pl
import psutil

from profiles.regular_files import open_regular
from profiles.schema import Profile
from tasks.errors import DamagedFile, DamagedRecord, StorageError
from tasks.files import publish_parquet
from tasks.node.gpu_reading import GpuSample, NoDriverError, NvmlReader
from tasks.node.gpu_selection import read_used_gpus
from tasks.node.nvml import PynvmlReader
from tasks.storage.published import check_published, recorded_path

logger = logging.getLogger(__name__)

TELEMETRY_SCHEMA = pl.Schema(
    {
        "time": pl.Datetime("us", "UTC"),
        "session": pl.Datetime("us", "UTC"),
        "source": pl.String(),
        "index": pl.Int32(),
        "utilization_percent": pl.Float32(),
        "memory_used": pl.Int64(),
        "temperature_c": pl.Int32(),
        "power_w": pl.Float32(),
        "sm_clock_mhz": pl.Int32(),
        "event_reasons": pl.Int64(),
        "running": pl.Int32(),
        "waiting": pl.Int32(),
        "kv_cache_usage": pl.Float32(),
        "preemptions": pl.Int64(),
        "prefix_cache_hits": pl.Int64(),
        "prefix_cache_queries": pl.Int64(),
        "generation_tokens": pl.Int64(),
        "steps": pl.Int64(),
        "graph_steps": pl.Int64(),
    }
)
"""One row per sample and source: "gpu" (index: NVML's), "replica" (index: the replica's) or, without a GPU, "host"
(utilization: percent of one core; memory: resident bytes; both of this process and its descendants). ``session`` is
the time at which the sampler started; a resumed run adds a session. Counters count from the replica's start."""

_LATER_COLUMNS = ("steps", "graph_steps")
"""Files of earlier releases lack them."""

Sample = Sequence[Mapping[str, Any]]
"""The rows of one moment: of each, ``source``, ``index`` and the columns that its source has."""

INTERVAL_S = 1.0
PUBLISH_EVERY_S = 60.0

_WRITE_SHARE = 0.002
_TREE_EVERY = 15


@dataclass(frozen=True, kw_only=True)
class ReplicaStats:
    """The load of a replica, and its counters since its start."""

    replica: int
    """Index of the replica."""
    running: int
    """Sequences that run now."""
    waiting: int
    """Sequences that wait now."""
    kv_cache_usage: float
    """Share (of 1) of the KV cache in use now."""
    preemptions: int
    """Preempted sequences since the start."""
    prefix_cache_hits: int
    """Prompt tokens found in the prefix cache since the start."""
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache since the start."""
    generation_tokens: int
    """Generated tokens since the start."""
    steps: int = 0
    """Engine steps since the start, as far as it is known whether they ran in a CUDA graph."""
    graph_steps: int = 0
    """Those of ``steps`` that ran in a CUDA graph."""


class TelemetrySampler:
    """A thread that samples once a second and publishes ``path`` every minute and at the end.

    As a context manager it runs from entry to exit. Start it before the engines, so that their start-up is counted. It
    appends to an existing file. A kill loses the samples since the last publication. An error of a sample or of the
    disk is logged and never stops a run; nor does a damaged file, which is replaced.
    """

    def __init__(
        self,
        path: Path,
        profile: Profile,
        replica_stats: Callable[[], Sequence[ReplicaStats]],
        *,
        reader: NvmlReader | None = None,
        interval_s: float = INTERVAL_S,
        publish_every_s: float = PUBLISH_EVERY_S,
        listener: Callable[[Sample], None] = lambda rows: None,
    ) -> None:
        """``listener`` gets each sample, on the sampler's thread."""
        self._path = path
        self._replica_stats = replica_stats
        self._reader: NvmlReader = reader or PynvmlReader()
        self._gpus = [gpu.index for gpu in read_used_gpus(profile, self._reader)]
        self._host = None if self._gpus else _HostTree()
        self._interval_s = interval_s
        self._publish_every_s = publish_every_s
        self._listener = listener
        self._session = datetime.now(UTC)
        self._published = _earlier(path)
        self._samples: list[pl.DataFrame] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample, publish and end the thread. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        due = time.monotonic()
        publish_at = due + self._publish_every_s
        while not self._stop.is_set():
            self._sample()
            if time.monotonic() >= publish_at:
                publish_at = time.monotonic() + max(self._publish_every_s, self._publish() / _WRITE_SHARE)
            due = max(due + self._interval_s, time.monotonic())
            self._stop.wait(due - time.monotonic())
        self._sample()
        self._publish()

    def _sample(self) -> None:
        try:
            now = {"time": datetime.now(UTC), "session": self._session}
            rows: list[dict[str, Any]] = [
                {"source": "gpu", "index": gpu, **asdict(self._gpu_sample(gpu))} for gpu in self._gpus
            ]
            if self._host is not None:
                rows.append({"source": "host", "index": 0, **self._host.sample()})
            for stats in self._replica_stats():
                values = asdict(stats)
                rows.append({"source": "replica", "index": values.pop("replica"), **values})
            # a value that does not fit the schema loses this sample, not all samples since the last publication
            self._samples.append(pl.DataFrame([now | row for row in rows], schema=TELEMETRY_SCHEMA))
            self._listener(rows)
        except Exception:  # a run is worth more than a sample
            logger.exception("a telemetry sample failed")

    def _gpu_sample(self, index: int) -> GpuSample:
        try:
            return self._reader.sample(index)
        except NoDriverError:
            return GpuSample(
                utilization_percent=None,
                memory_used=None,
                temperature_c=None,
                power_w=None,
                sm_clock_mhz=None,
                event_reasons=None,
            )

    def _publish(self) -> float:
        """Publish all samples so far, and return the seconds that it took."""
        started = time.monotonic()
        samples, self._samples = self._samples, []
        try:
            self._published = pl.concat([self._published, *samples])
            publish_parquet(self._published, self._path, recorded_path)
        except StorageError as error:
            logger.warning("telemetry is not saved: %s", error)
        except Exception:  # the thread goes on: the next publication may succeed
            logger.exception("telemetry is not saved")
        return time.monotonic() - started


class _HostTree:
    """Reads the CPU use and resident memory of this process and its descendants."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._processes: dict[int, psutil.Process] = {self._own.pid: self._own}
        self._until_refresh = 0

    def sample(self) -> dict[str, float]:
        # a search for descendants reads every process of the machine, so only some samples make one
        if self._until_refresh == 0:
            found = {self._own.pid: self._own} | {child.pid: child for child in self._own.children(recursive=True)}
            self._processes = {pid: self._processes.get(pid, process) for pid, process in found.items()}
            self._until_refresh = _TREE_EVERY
        self._until_refresh -= 1
        percent, resident = 0.0, 0
        for pid, process in list(self._processes.items()):
            try:
                with process.oneshot():
                    percent += process.cpu_percent(None)
                    resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                del self._processes[pid]
        return {"utilization_percent": percent, "memory_used": resident}


def load_telemetry(path: Path) -> pl.DataFrame:
    """Return the samples in the telemetry file of a run; none when there is no file. Raises DamagedFile."""
    try:
        with open_regular(path) as file:
            check_published(path)
            return parse_telemetry(file)
    except FileNotFoundError:
        return pl.DataFrame(schema=TELEMETRY_SCHEMA)
    except OSError as error:
        raise DamagedRecord(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise DamagedRecord(path, str(error)) from None


def parse_telemetry(file: BinaryIO) -> pl.DataFrame:
    """Return the samples in an open telemetry file. Raises ValueError when it holds anything else."""
    # pyarrow refuses damaged bytes at which polars may end the process
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file).read()
        table.validate(full=True)
        frame = pl.DataFrame(pl.from_arrow(table))
    except (OSError, pyarrow.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"it is not Parquet that can be read ({error})") from None
    for name in _LATER_COLUMNS:
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=TELEMETRY_SCHEMA[name]).alias(name))
    if frame.schema != TELEMETRY_SCHEMA:
        raise ValueError("it has other columns than telemetry")
    return frame


def _earlier(path: Path) -> pl.DataFrame:
    try:
        return load_telemetry(path)
    except DamagedFile as error:
        logger.warning("%s", error)
        return pl.DataFrame(schema=TELEMETRY_SCHEMA)
