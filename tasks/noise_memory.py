"""The measured noise floor of a model on a device, kept for every later comparison in the same runs directory."""

import hashlib
import json
from pathlib import Path

from tasks.comparability import read_config
from tasks.noise_floor import NoiseFloor
from tasks.rung_memory import device_name


def remember_noise_floor(floor: NoiseFloor, run_dir: Path, runs_dir: Path) -> Path:
    """Keep ``floor`` for runs that compute like the one in ``run_dir``; return where. Raises ConfigError."""
    path = noise_floor_path(run_dir, runs_dir)
    floor.save(path)
    return path


def recall_noise_floor(run_dir: Path, *runs_dirs: Path) -> NoiseFloor | None:
    """The floor measured for runs that compute like the one in ``run_dir``, from the first directory that has one."""
    for runs_dir in runs_dirs:
        path = noise_floor_path(run_dir, runs_dir)
        if path.is_file():
            return NoiseFloor.load(path)
    return None


def noise_floor_path(run_dir: Path, runs_dir: Path) -> Path:
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
