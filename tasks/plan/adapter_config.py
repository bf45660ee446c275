"""Reads the adapter_config.json of a LoRA adapter, which PEFT writes, and refuses what vLLM cannot apply.

The rules are those of vLLM's PEFTHelper (vllm/lora/peft_helper.py), and of what it passes over without a word.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.load import short_repr
from tasks.errors import ConfigError
from tasks.plan.adapter_files import CONFIG
from tasks.plan.model_config import read_model_object

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for max_lora_rank."""

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga", "true", "false")
"""Values of init_lora_weights that leave the base model's weights as they are."""
_REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "use_dora": (bool, "vLLM has no DoRA"),
    "bias": (lambda value: value not in (None, "none"), "vLLM adds no biases of an adapter"),
    "lora_bias": (bool, "vLLM adds no biases of an adapter"),
    "modules_to_save": (bool, "the engine has one copy of such modules, the base model's"),
    "trainable_token_indices": (bool, "the engine has one table of embeddings, the base model's"),
    "init_lora_weights": (
        lambda value: isinstance(value, str) and value.lower() not in _PLAIN_STARTS,
        "it changes the base model's weights; convert it with PEFT's path_initial_model_for_weight_conversion",
    ),
    "alora_invocation_tokens": (bool, "vLLM has no activated LoRA"),
    "layer_replication": (bool, "vLLM does not replicate layers"),
    "use_bdlora": (bool, "vLLM has no block-diagonal LoRA"),
    "use_qalora": (bool, "vLLM has no QALoRA"),
}
_INSTEAD = "Merge the adapter into the model (PEFT's merge_and_unload) and give the result as --model"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The part of adapter_config.json that decides about shapes and memory."""

    rank: int
    rank_pattern: Mapping[str, int]
    """Other ranks, by the end of a module's name."""

    @property
    def largest_rank(self) -> int:
        return max(self.rank, *self.rank_pattern.values(), 0)

    def rank_of(self, module: str) -> int:
        """Return the rank for ``module``, by PEFT's rule: the first pattern that matches the end of its name."""
        found = (rank for key, rank in self.rank_pattern.items() if re.match(rf"(.*\.)?({key})$", module))
        return next(found, self.rank)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Return the configuration of the adapter in the directory ``path``. Raises ConfigError."""
    file = path / CONFIG
    given = read_model_object(file, missing=f"a LoRA adapter's directory has it. {path} is none")
    kind = given.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{file} has peft_type {short_repr(kind)}; only LORA adapters can be used. {_INSTEAD}")
    for name, (is_set, why) in _REFUSED.items():
        if is_set(given.get(name)):
            raise ConfigError(f"{file} has {name} {short_repr(given[name])}, and {why}. {_INSTEAD}")
    if "target_modules" not in given:
        raise ConfigError(f"{file} names no target_modules. Save the adapter again")
    ranks, alphas = (_read_pattern(file, given, name) for name in ("rank_pattern", "alpha_pattern"))
    for alpha in (given.get("lora_alpha"), *alphas.values()):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < sys.float_info.max:
            raise ConfigError(f"{file} has lora_alpha {short_repr(alpha)}; it must be a number. Save the adapter again")
    for rank in (given.get("r"), *ranks.values()):
        if type(rank) is not int or not 1 <= rank <= RANKS[-1]:
            raise ConfigError(
                f"{file} has a rank of {short_repr(rank)}; it must be a whole number from 1 to {RANKS[-1]}, which is "
                f"vLLM's limit. {_INSTEAD}"
            )
    return AdapterConfig(rank=given["r"], rank_pattern=ranks)


def _read_pattern(file: Path, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return other values for some modules, by the end of a module's name."""
    patterns = given.get(name) or {}
    if not isinstance(patterns, dict):
        raise ConfigError(f"{file} has {name} {short_repr(patterns)}; it must be an object. Save it again")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{file} has {short_repr(pattern)} in {name}: {error}. Save it again") from None
    return patterns


def allowed_rank(rank: int) -> int:
    """Return the smallest max_lora_rank that holds adapters of ``rank``, which is at most the largest of RANKS."""
    return next(allowed for allowed in RANKS if allowed >= rank)
