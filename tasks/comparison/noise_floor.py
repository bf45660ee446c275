"""Measures how much two runs of the same settings differ, and saves that noise floor for later comparisons.

A comparison counts differences up to the noise floor as rounding. The runs directory holds one floor per model, number
format, versions and device.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from tasks.comparison.comparability import check_comparable, read_comparable_config
from tasks.comparison.divergence import find_divergences
from tasks.comparison.near_tie import default_limit
from tasks.comparison.paired_statistics import count_flips
from tasks.comparison.pairing import pair_rollouts
from tasks.comparison.rollout_index import index_rollouts
from tasks.errors import ConfigError, DamagedFile
from tasks.files import publish_json, read_record
from tasks.node.gpu_selection import device_name
from tasks.records import RunPaths

SAFETY_FACTOR = 2.0
"""The near-tie limit is this many times the largest gap that was measured. An equal number of new gaps exceeds that
largest gap every second time."""
LEAST_DIVERGENCES = 10
"""With fewer divergences, the floor is the default of the dtype: few gaps say little about the largest possible one."""
_ROUNDING_KINDS = ("near_tie", "wide", "shifted")


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The differences between two runs of the same settings."""

    near_tie_limit: float
    """In nats at temperature 1: SAFETY_FACTOR times the largest gap, or the default of the dtype."""
    measured: bool
    """False when fewer than LEAST_DIVERGENCES rollouts differed; ``near_tie_limit`` is then the default."""
    divergence_rate: float
    """Share (of 1) of the rollouts whose tokens differ."""
    flip_rate: float
    """Share (of 1) of the scored rollouts that are correct in one run alone."""
    divergences: int
    """Number of rollouts whose tokens differ."""
    rollouts: int
    """Number of rollouts that succeeded in both runs."""
    dtype: str
    """The number format of the runs; several are joined by commas."""
    source_run_ids: tuple[str, str]
    """Ids of the two runs."""

    def __post_init__(self) -> None:
        if not self.near_tie_limit > 0:
            raise ValueError(f"near_tie_limit is {self.near_tie_limit}; it must be above 0")


def measure_noise_floor(run_a: Path, run_b: Path) -> NoiseFloor:
    """The noise floor between two runs of the same settings, one of them in another batch order.

    Raises ConfigError when the runs differ for another reason than rounding, or store no top logprobs.
    """
    comparability = check_comparable(run_a, run_b)
    pairing = pair_rollouts(index_rollouts(RunPaths(root=run_a)), index_rollouts(RunPaths(root=run_b)))
    if not pairing.counts.compared:
        raise ConfigError(f"{run_a} and {run_b} share no rollout that succeeded in both, so nothing can be measured")
    dtypes = pairing.baseline.dtypes | pairing.candidate.dtypes
    default = default_limit(dtypes)
    found = find_divergences(pairing, near_tie_limit=default, real_limit=float("inf"))
    other = found.filter(~pl.col("kind").cast(pl.String).is_in([*_ROUNDING_KINDS, "unseen"]))
    if other.height:
        row = other.row(0, named=True)
        raise ConfigError(
            f"{run_a} and {run_b} do not repeat each other: {other.height} rollouts differ for a reason other "
            f"than rounding, such as ({row['example_id']}, {row['arm_id']}, {row['sample_index']}): {row['kind']}. "
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


def save_noise_floor(floor: NoiseFloor, run_dir: Path, runs_dir: Path) -> Path:
    """Publish ``floor`` in ``runs_dir`` for runs that compute like the one in ``run_dir``, and return its path.

    Raises ConfigError when ``run_dir`` holds no run.
    """
    path = _noise_floor_path(run_dir, runs_dir)
    publish_json(asdict(floor), path)
    return path


def find_noise_floor(run_dir: Path, *runs_dirs: Path) -> NoiseFloor | None:
    """The floor of runs that compute like the one in ``run_dir``, from the first directory that has it, or None.

    Raises ConfigError when the floor's file is damaged, or when ``run_dir`` holds no run.
    """
    for runs_dir in runs_dirs:
        floor = read_noise_floor(_noise_floor_path(run_dir, runs_dir))
        if floor is not None:
            return floor
    return None


def read_noise_floor(path: Path) -> NoiseFloor | None:
    """The floor in the file at ``path``; None when there is no file. Raises ConfigError when the file is damaged."""
    try:
        return read_record(path, NoiseFloor)
    except DamagedFile as error:
        raise ConfigError(
            f"{path} is damaged: it is not a noise floor. Make one with harvest bench --noise-floor"
        ) from error


def _noise_floor_path(run_dir: Path, runs_dir: Path) -> Path:
    """The floor's file. Rounding depends on model, number format, kernels and device, not on questions or seed."""
    config = read_comparable_config(run_dir)
    tested = config.get("tested", {})
    key = {
        "model": config["comparable"]["model"],
        "device": device_name(),
        **{name: tested.get(name) for name in ("dtype", "quantization", "batch_invariant", "versions")},
        # what came later is left out where it is not stated, so that stored floors are found
        **{name: tested[name] for name in ("kv_cache_dtype", "quantization_config") if name in tested},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return runs_dir / ".memory" / f"noise-floor-{digest}.json"
