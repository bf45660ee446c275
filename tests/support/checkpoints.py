"""Checkpoints of a training that nobody did: the demo model with its weights changed a little, more at each step."""

import shutil
from pathlib import Path

from profiles.load import DEMO_MODEL


def write_checkpoint(path: Path, step: int) -> Path:
    """Write the demo model with every weight changed by noise of this ``step``; the same step, the same weights."""
    import numpy as np
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    shutil.copytree(DEMO_MODEL, path)
    noise = np.random.default_rng(step)
    weights = {name: tensor.float().numpy() for name, tensor in load_file(path / "model.safetensors").items()}
    changed = {
        name: values * (1 + 0.05 * step * noise.standard_normal(values.shape)) for name, values in weights.items()
    }
    save_file(
        {name: values.astype("float32") for name, values in changed.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    return path
