"""Finds the LoRA adapters that a user names, checks each against the base model, and identifies it by a digest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.plan.adapter_config import allowed_rank, read_adapter_config
from tasks.plan.adapter_files import WEIGHTS
from tasks.plan.adapter_fit import check_fits
from tasks.plan.lora_support import lacks_lora
from tasks.plan.model_config import read_model_config
from tasks.plan.model_files import read_weights
from tasks.plan.model_source import ModelSource, adapter_digest, joint_digest
from tasks.plan.safetensors_header import read_safetensors_header
from tasks.user_paths import user_path

_OTHER_WEIGHTS = ("adapter_model.bin", "adapter_model.pt")
_GPU_SLOTS = 8
"""Most adapters in one batch on a GPU: each slot takes memory of the largest rank in every layer."""


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """A LoRA adapter: its directory and that one's name, a digest of its files, and its largest rank."""

    name: str
    path: Path
    digest: str
    rank: int

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, for config.json."""
        return {"name": self.name, "path": str(self.path), "digest": self.digest, "rank": self.rank}


@dataclass(frozen=True, kw_only=True)
class LoraSlots:
    """The room for adapters in an engine: ``slots`` at once in a batch, ``held`` in host memory, each of ``rank``."""

    slots: int
    held: int
    rank: int

    @classmethod
    def of(cls, adapters: Sequence[AdapterSource], *, on_gpu: bool) -> "LoraSlots":
        """Return the room that ``adapters`` need.

        On a CPU there is one slot more. vLLM's operations there (vllm/lora/ops/torch_ops) take the index -1 of a
        request without an adapter for the last slot, which must therefore stay empty.
        """
        count = len(adapters)
        slots = min(count, _GPU_SLOTS) if on_gpu else count + 1
        rank = allowed_rank(max(adapter.rank for adapter in adapters))
        return cls(slots=slots, held=max(count, slots), rank=rank)


def find_adapters(names: Sequence[str], model: ModelSource) -> tuple[AdapterSource, ...]:
    """Return the adapters in the directories ``names``, in that order. Raises ConfigError when one cannot be used."""
    architectures = read_model_config(model.path).get("architectures") or []
    if lacks_lora(architectures):
        raise ConfigError(
            f"model {model.name} is a {architectures[0]}, to which the installed vLLM can add no LoRA adapters. Merge "
            "the adapter into the model (PEFT's merge_and_unload) and give the result as --model"
        )
    base = {tensor.name: tensor for tensor in read_weights(model.path)}
    found: dict[str, AdapterSource] = {}
    for name in names:
        adapter = _find(user_path(name))
        config = read_adapter_config(adapter.path)
        file = adapter.path / WEIGHTS
        check_fits(file, read_safetensors_header(file), config, base)
        if adapter.name in found:
            raise ConfigError(
                f"two adapters are called {adapter.name}: {found[adapter.name].path} and {adapter.path}. Their runs "
                "could not be told apart: name each once, or give one a link of another name"
            )
        for other in found.values():
            if other.digest == adapter.digest:
                raise ConfigError(f"adapters {other.path} and {adapter.path} are the same. Give one of them")
        found[adapter.name] = adapter
    return tuple(found.values())


def _find(path: Path) -> AdapterSource:
    path = path.absolute()
    if not path.is_dir():
        found = "a file" if path.exists() else "missing"
        raise ConfigError(f"adapter {path} is {found}. Give the directory that PEFT's save_pretrained wrote")
    config = read_adapter_config(path)
    if not (path / WEIGHTS).is_file():
        other = next((name for name in _OTHER_WEIGHTS if (path / name).exists()), None)
        if other is None:
            raise ConfigError(f"{path} has no {WEIGHTS}: it is not a complete adapter. Copy all of its files")
        raise ConfigError(
            f"{path} has {other}, which is not read: it may run code, and its shapes cannot be checked. Load it with "
            f"PEFT and save it again as {WEIGHTS} (save_pretrained)"
        )
    return AdapterSource(name=path.name, path=path, digest=adapter_digest(path), rank=config.largest_rank)


def with_adapter(model: ModelSource, adapter: AdapterSource) -> ModelSource:
    """Return ``model`` with ``adapter`` beside it: a model of its own, whose name, revision and digest tell both.

    Its files are the base model's, so prompts have the base's chat template and tokenizer.
    """
    return ModelSource(
        name=f"{model.name}+{adapter.name}",
        path=model.path,
        revision=f"{model.revision}+{adapter.digest[:12]}",
        weights_digest=joint_digest(model.weights_digest, adapter.digest),
        tokenizer_digest=model.tokenizer_digest,
        chat_template_digest=model.chat_template_digest,
    )
