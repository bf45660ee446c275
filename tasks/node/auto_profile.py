"""Chooses the profile of a node with GPUs for a model: ``--profile auto``.

The smallest tensor-parallel size that leaves a KV cache worth having, and as many replicas of it as there are GPUs for.
GPUs of one engine wait for each other, those of replicas do not, so a model that fits one GPU gets an engine on each.
Only powers of two are tried: vLLM pads vocabularies so that these split them.

All but the number of replicas follows from the model and the smallest card, unless memory is short: so a run that began
on eight GPUs goes on with four.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.engine_settings import EngineSettings, parallel_words
from profiles.load import parse_settings
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.node.cards import Card, Cards
from tasks.node.engines_per_gpu import engines_that_fit
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.plan.engine_options import changed_engine
from tasks.plan.model_config import read_model_config, text_config
from tasks.plan.model_files import read_weights
from tasks.plan.model_shape import UnknownLayoutError, read_shape
from tasks.units import GIB, format_gib

USUAL_MODEL_LEN = 2048
"""Tokens of prompt and completion, as in the shipped profiles."""
WORTH_HAVING = 32
"""Sequences of max_model_len that a KV cache must hold. Usual ones are several times shorter, so more than a hundred
run at once. With fewer, a step reads all weights for few tokens, and two GPUs together make more than twice as many."""
UTILIZATION = 0.95
SMALL_CARD_UTILIZATION = 0.90
SMALL_CARD_BYTES = 30 * GIB
"""Below this a twentieth of the memory is less than 1.5 GiB, which CUDA's context, NCCL and fragments may take beside
what vLLM counts."""
WEIGHTS_SHARE = 0.75
"""Most of an engine's memory that weights may take when the size of the KV cache cannot be told."""
BFLOAT16_CAPABILITY = (8, 0)
MOST_SHARING = 2
"""Engines on a GPU. On an H200 two of a 7B model made 1.2 to 1.7 times the tokens/s of one (infra/gpu-bench)."""


@dataclass(frozen=True, kw_only=True)
class ChosenProfile:
    """A profile that was chosen, and what its user should know of the choice; a sentence each."""

    profile: Profile
    notes: tuple[str, ...] = ()


def choose_profile(
    found: Sequence[Card],
    model_path: Path | None,
    *,
    max_model_len: int = USUAL_MODEL_LEN,
    expected_length: int = USUAL_MODEL_LEN,
    may_share: bool = False,
    stated: Mapping[str, Any] | None = None,
) -> ChosenProfile:
    """Return the profile for the model in ``model_path`` on the cards ``found``; without a model, an engine on each.

    ``stated`` are engine settings that the user gives: they stay, and the others are chosen with them.
    ``max_model_len`` is lowered to what the model knows. With ``may_share`` as many engines share a GPU as each hold
    its full batch of sequences of ``expected_length`` tokens. Raises ConfigError, with the figures, when the model fits
    no tensor-parallel size, or when its memory cannot be told, and SettingsError when ``stated`` is wrong.
    """
    cards = Cards(found)
    stated = stated or {}
    notes: list[str] = []
    settings: dict[str, Any] = {"dtype": "bfloat16", "gpu_memory_utilization": UTILIZATION}
    if cards.oldest is not None and cards.oldest < BFLOAT16_CAPABILITY:
        settings["dtype"] = "auto"
        if "dtype" not in stated:
            notes.append("dtype is auto, as cards before compute capability 8.0 have no bfloat16")
    if cards.smallest.memory < SMALL_CARD_BYTES:
        settings["gpu_memory_utilization"] = SMALL_CARD_UTILIZATION
        if "gpu_memory_utilization" not in stated:
            notes.append(
                f"gpu_memory_utilization is below {UTILIZATION:g}, as what vLLM does not count is a larger part of a "
                "small card"
            )
    settings = changed_engine({**settings, "max_model_len": max_model_len}, stated)
    engine = parse_settings(settings, EngineSettings, "--engine, with profile auto")
    if engine.nodes_per_replica > 1:
        raise ConfigError(
            f"--engine asks for nodes_per_replica {engine.nodes_per_replica}, and profile auto chooses engines for the "
            "GPUs of one node. Write a profile with it: harvest profiles auto --save FILE.toml makes one to begin with"
        )
    if engine.gpus > len(cards):
        raise ConfigError(
            f"--engine asks for {parallel_words(engine)}, which are {engine.gpus} GPUs, and this node has {len(cards)} "
            "that a run may use. Lower a size"
        )
    if model_path is not None:
        engine, why = _Choice(cards, engine, model_path, stated).made()
        notes.append(why)
    profile = cards.profile(engine)
    if model_path is not None and may_share:
        smallest = cards.smallest
        engines = engines_that_fit(
            profile,
            model_path,
            expected_length=expected_length,
            gpu_bytes=smallest.memory,
            gpu_name=smallest.name,
            most=MOST_SHARING,
        )
        profile = cards.profile(engine, per_gpu=engines)
    return ChosenProfile(profile=profile, notes=(*cards.describe(profile), *notes))


class _Choice:
    """The choice for one model."""

    def __init__(self, cards: Cards, engine: EngineSettings, path: Path, stated: Mapping[str, Any]) -> None:
        self._cards, self._path = cards, path
        self._unknown = ""
        config = read_model_config(path)
        most = len(cards) // engine.pipeline_parallel_size
        try:
            shape = read_shape(config, engine)
            longest, sizes = shape.longest, shape.allowed_parallel_sizes(most)
        except UnknownLayoutError as error:
            self._unknown = str(error)
            longest, heads = (_number(config, name) for name in ("max_position_embeddings", "num_attention_heads"))
            sizes = [size for size in range(1, most + 1) if not (heads or 0) % size]
        length = engine.max_model_len
        if longest is not None and "max_model_len" not in stated:
            length = min(length, longest)
        self._engines = [
            engine.model_copy(update={"max_model_len": length, "tensor_parallel_size": size})
            for size in sizes
            if size & (size - 1) == 0
        ]
        if "tensor_parallel_size" in stated:
            self._engines = [engine.model_copy(update={"max_model_len": length})]

    def made(self) -> tuple[EngineSettings, str]:
        """Return the engine's settings, and why."""
        if self._unknown:
            return self._by_weights()
        plans = [self._plan(engine) for engine in self._engines]
        if plans[0].sequences_at_max_len is None:
            raise self._cannot_tell("; ".join(plans[0].unknown))
        for engine, plan in zip(self._engines, plans, strict=True):
            if (held := plan.sequences_at_max_len or 0) >= WORTH_HAVING:
                return engine, f"the KV cache of an engine holds {held:,} sequences of max_model_len"
        if not (held := plans[-1].sequences_at_max_len or 0):
            raise self._too_large(plans[-1])
        return self._engines[-1], (
            f"memory is short: the KV cache of an engine holds {held:,} sequences of max_model_len, fewer than the "
            f"{WORTH_HAVING} that are worth having. More GPUs, a quantized model or a smaller max_tokens is faster"
        )

    def _by_weights(self) -> tuple[EngineSettings, str]:
        weights = sum(tensor.nbytes for tensor in read_weights(self._path))
        if not weights:
            raise self._cannot_tell(f"{self._unknown}, and there are no safetensors files to measure")
        smallest, last = self._cards.smallest, self._engines[-1]
        room = int(smallest.memory * last.gpu_memory_utilization * WEIGHTS_SHARE)
        for engine in self._engines:
            if weights <= room * engine.gpus:
                return engine, f"chosen by the {format_gib(weights)} of weights alone, as {self._unknown}"
        raise ConfigError(
            f"{self._path} does not fit this node: it has {format_gib(weights)} of weights, and an engine over "
            f"{last.gpus} x {smallest.name} of {format_gib(smallest.memory)} is to hold at most "
            f"{format_gib(room * last.gpus)} of weights. {_REMEDY}"
        )

    def _plan(self, engine: EngineSettings) -> MemoryPlan:
        smallest = self._cards.smallest
        return plan_memory(self._cards.profile(engine), self._path, gpu_bytes=smallest.memory, gpu_name=smallest.name)

    def _too_large(self, plan: MemoryPlan) -> ConfigError:
        smallest, last = self._cards.smallest, self._engines[-1]
        weights, reserve = (format_gib(size or 0) for size in (plan.weight_bytes, plan.reserve_bytes))
        sequence = (plan.kv_bytes_per_token or 0) * plan.max_model_len
        return ConfigError(
            f"{self._path} does not fit this node: with {parallel_words(last)}, the largest "
            f"here, each GPU needs {weights} for weights, {reserve} beside them and {format_gib(sequence)} for one "
            f"sequence of {plan.max_model_len} tokens. {smallest.name} has {format_gib(smallest.memory)}, of which "
            f"{last.gpu_memory_utilization:.0%} may be used. {_REMEDY}"
        )

    def _cannot_tell(self, why: str) -> ConfigError:
        return ConfigError(f"profile auto does not know what memory {self._path} needs: {why}. Give another --profile")


_REMEDY = "Use more GPUs, GPUs with more memory, or a quantized model"


def _number(config: Mapping[str, Any], name: str) -> int | None:
    """Return the number ``name`` of a config.json. Models of images and text have a table for the text."""
    value = config.get(name) or text_config(config).get(name)
    return value if type(value) is int and value > 0 else None
