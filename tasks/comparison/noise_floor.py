"""How much two runs of the same settings differ: the measure for what counts as rounding."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from tasks.comparison.comparability import check_comparable, read_config
from tasks.comparison.divergence import find_divergences
from tasks.comparison.near_tie import default_limit
from tasks.comparison.paired_statistics import count_flips
from tasks.comparison.pairing import pair_rollouts
from tasks.comparison.rollout_index import index_rollouts
from tasks.errors import ConfigError
from tasks.files import publish_json, read_json
from tasks.generation.oom_ladder import device_name
from tasks.records import RunPaths

SAFETY_FACTOR = 2.0
"""The largest of as many new gaps exceeds the largest seen every second time; the limit is this many times it."""
LEAST_DIVERGENCES = 10
"""The largest of fewer gaps says little of how large one can be: then the default of the dtype stands."""
_ROUNDING_KINDS = ("near_tie", "wide", "shifted")


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What an A/A comparison showed.

    ``near_tie_limit`` is in nats at temperature 1: SAFETY_FACTOR times the largest gap, or the default of the dtype
    when fewer than LEAST_DIVERGENCES rollouts differed (``measured`` is then False). ``divergence_rate`` is the share
    of rollouts whose tokens differ and ``flip_rate`` the share of scored rollouts that were correct in one run alone.
    """

    near_tie_limit: float
    measured: bool
    divergence_rate: float
    flip_rate: float
    divergences: int
    rollouts: int
    dtype: str
    source_run_ids: tuple[str, str]

    def save(self, path: Path) -> None:
        """Publish as JSON."""
        publish_json(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> "NoiseFloor":
        """Read what ``save`` wrote; ConfigError when the file is missing or holds something else."""
        value = read_json(path)
        try:
            floor = cls(**{**value, "source_run_ids": tuple(value["source_run_ids"])})
            valid = floor.near_tie_limit > 0 and len(floor.source_run_ids) == 2
        except (TypeError, KeyError):
            valid = False
        if not valid:
            raise ConfigError(f"{path} is not a noise floor. Make one with harvest bench --noise-floor")
        return floor


def measure_noise_floor(run_a: Path, run_b: Path) -> NoiseFloor:
    """Measure the noise between two runs of the same settings, one of them in another batch order.

    Raises ConfigError when the runs differ by more than the order of work can explain, or lack top logprobs.
    """
    comparability = check_comparable(run_a, run_b)
    pairing = pair_rollouts(index_rollouts(RunPaths(root=run_a)), index_rollouts(RunPaths(root=run_b)))
    if not pairing.counts.compared:
        raise ConfigError(f"{run_a} and {run_b} share no rollout that succeeded in both: nothing can be measured")
    dtypes = pairing.baseline.dtypes | pairing.candidate.dtypes
    default = default_limit(dtypes)
    found = find_divergences(pairing, near_tie_limit=default, real_limit=float("inf"))
    other = found.filter(~pl.col("kind").cast(pl.String).is_in([*_ROUNDING_KINDS, "unseen"]))
    if other.height:
        row = other.row(0, named=True)
        raise ConfigError(
            f"{run_a} and {run_b} do not repeat each other: {other.height} rollouts differ for another reason than "
            f"rounding, such as ({row['example_id']}, {row['arm_id']}, {row['sample_index']}): {row['kind']}. "
            "Run the same settings twice, seeded, with top logprobs stored"
        )
    temperature = pairing.frame.select("pair", pl.col("base_temperature").fill_null(1.0))
    gaps = found.filter(pl.col("kind").cast(pl.String).is_in(_ROUNDING_KINDS)).join(temperature, on="pair")
    scale = pl.when(pl.col("base_temperature") < 1e-5).then(1.0).otherwise("base_temperature")
    largest = gaps.select((pl.col("gap") * scale).max()).item()
    measured = gaps.height >= LEAST_DIVERGENCES and bool(largest)
    flips = count_flips(pairing.frame)
    return NoiseFloor(
        near_tie_limit=SAFETY_FACTOR * float(largest) if measured else default,
        measured=measured,
        divergence_rate=found.height / pairing.counts.compared,
        flip_rate=flips.rate,
        divergences=found.height,
        rollouts=pairing.counts.compared,
        dtype=", ".join(sorted(dtypes)),
        source_run_ids=(comparability.baseline.run_id, comparability.candidate.run_id),
    )


# MERGED from @noise_memory: The measured noise floor of a model on a device, kept for every later
# comparison in the same runs directory.
def save_noise_floor(floor: NoiseFloor, run_dir: Path, runs_dir: Path) -> Path:
    """Keep ``floor`` for runs that compute like the one in ``run_dir``; return where. Raises ConfigError."""
    path = _noise_floor_path(run_dir, runs_dir)
    floor.save(path)
    return path


def find_noise_floor(run_dir: Path, *runs_dirs: Path) -> NoiseFloor | None:
    """The floor measured for runs that compute like the one in ``run_dir``, from the first directory that has one."""
    for runs_dir in runs_dirs:
        path = _noise_floor_path(run_dir, runs_dir)
        if path.is_file():
            return NoiseFloor.load(path)
    return None


def _noise_floor_path(run_dir: Path, runs_dir: Path) -> Path:
    """Where the floor is kept: rounding depends on the model, the number format, the kernels and the device, and on
    neither questions nor seed."""
    config = read_config(run_dir)
    tested = config.get("tested", {})
    key = {
        "model": config["comparable"]["model"],
        "device": device_name(),
        **{name: tested.get(name) for name in ("dtype", "quantization", "batch_invariant", "versions")},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return runs_dir / ".memory" / f"noise-floor-{digest}.json"
