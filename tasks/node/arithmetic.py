"""The share of the cards' arithmetic that generation takes, so that a figure means something on another card.

    (prompt tokens + completion tokens) x 2 x parameters / (dense peak of a card x cards) / seconds

Each token is multiplied with, and added over, every parameter that is active for it (``model_parameters``). Attention's
own products are left out. Tokens of prompts count also where the prefix cache spares them. The peak is that of the
run's dtype (``peak_flops``).
"""

from dataclasses import dataclass
from pathlib import Path

from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.node.gpu_selection import read_used_gpus, smallest_gpu
from tasks.node.model_parameters import active_parameters, uses_fp8
from tasks.node.nvml import PynvmlReader
from tasks.node.peak_flops import peak_flops

FORMULA = "(prompt + completion tokens) x 2 x parameters / dense peak FLOP/s of the cards / seconds"


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What a token costs and what a card gives. A field is None when it is not known."""

    parameters: int | None
    """Parameters that each token is multiplied with."""
    peak_flops: float | None
    """Dense peak of one card in FLOP/s."""

    def share(self, tokens: int, seconds: float, gpus: int) -> float | None:
        """Return the share (of 1) that ``tokens``, of prompts and completions, took of ``gpus`` cards."""
        if self.parameters is None or self.peak_flops is None:
            return None
        return tokens * 2 * self.parameters / (self.peak_flops * gpus) / seconds


def find_arithmetic(profile: Profile, model: Path) -> Arithmetic:
    """Return the arithmetic of ``profile`` with the model in the directory ``model`` on this node's cards."""
    card = smallest_gpu(read_used_gpus(profile, PynvmlReader()))
    try:
        parameters = active_parameters(model, profile.engine)
        fp8 = uses_fp8(model, profile.engine)
    except ConfigError:
        return Arithmetic(parameters=None, peak_flops=None)
    peak = None if card is None else peak_flops(card.name or "", profile.engine.dtype, fp8=fp8)
    return Arithmetic(parameters=parameters, peak_flops=peak)
