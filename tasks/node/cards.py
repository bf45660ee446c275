"""The GPUs of a node as a choice of settings sees them, and a profile for engines on them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from profiles.engine_settings import EngineSettings
from profiles.schema import AUTO, ExpectedNode, Profile
from tasks.node.gpu_reading import GpuReading
from tasks.units import GIB, format_gib

UNNAMED = "unnamed GPU"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU, as far as a choice of settings depends on it."""

    index: int
    """NVML index."""
    name: str
    """NVML's product name; UNNAMED when it tells none."""
    memory: int
    """Bytes, as CUDA counts them."""
    compute_capability: tuple[int, int] | None = None


class Cards:
    """The GPUs of a node that a run may use, at least one."""

    def __init__(self, cards: Sequence[Card]) -> None:
        self._cards = cards
        self.smallest = min(cards, key=lambda card: card.memory)
        self.oldest = min((card.compute_capability for card in cards if card.compute_capability), default=None)
        """The least compute capability; None when none is known."""

    def __len__(self) -> int:
        return len(self._cards)

    @property
    def kinds(self) -> list[str]:
        """The names, each once."""
        return list(dict.fromkeys(card.name for card in self._cards))

    def profile(self, engine: EngineSettings, *, per_gpu: int = 1) -> Profile:
        """Return a profile with as many replicas of ``engine`` as there are GPUs for, ``per_gpu`` on each GPU."""
        size, stages = engine.gpus, engine.pipeline_parallel_size
        gpus = len(self) // size * size
        replicas = gpus // size * per_gpu
        parallel = {"TP": engine.tensor_parallel_size} | ({"PP": stages} if stages > 1 else {})
        shape = " x ".join(f"{kind} {count}" for kind, count in parallel.items())
        ending = "".join(f"-{kind.lower()}{count}" for kind, count in parallel.items()) if size > 1 else ""
        capability = None if self.oldest is None else float(f"{self.oldest[0]}.{self.oldest[1]}")
        return Profile(
            name=_slug(self.smallest.name) + ending,
            description=f"{gpus} x {' and '.join(self.kinds)}, {replicas} x {shape}, chosen by auto",
            replicas=replicas,
            replicas_per_gpu=per_gpu,
            any_replicas=True,
            question_batch_size=AUTO,
            engine=engine,
            expect=ExpectedNode(
                gpu_name=None if UNNAMED in self.kinds else "|".join(map(_literal, self.kinds)),
                gpu_count=gpus,
                gpu_memory_gib=self.smallest.memory // GIB or None,
                compute_capability=capability,
            ),
        )

    def describe(self, profile: Profile) -> Iterator[str]:
        """Yield what the user should know of how ``profile`` uses the GPUs; a sentence each."""
        size, dtype = profile.engine.gpus, profile.engine.dtype
        yield (
            f"profile auto: {profile.replicas} {_plural('engine', profile.replicas)} of {size} {_plural('GPU', size)}, "
            f"{dtype}, max_model_len {profile.engine.max_model_len}, gpu_memory_utilization "
            f"{profile.engine.gpu_memory_utilization:g}, on {len(self)} x {' and '.join(self.kinds)}, "
            f"{format_gib(self.smallest.memory)}"
        )
        if len({(card.name, card.memory // GIB) for card in self._cards}) > 1:
            yield f"the GPUs differ, and the profile is for the smallest, {self.smallest.name}"
        if profile.replicas_per_gpu > 1:
            yield f"{profile.replicas_per_gpu} engines share each GPU: one computes while another's Python works"
        if unused := self._cards[profile.gpus :]:
            named = ", ".join(str(card.index) for card in unused)
            yield f"{_plural('GPU', len(unused))} {named} {'stays' if len(unused) == 1 else 'stay'} unused"


def cards_of(gpus: Iterable[GpuReading]) -> list[Card]:
    """Return the cards of ``gpus``, without those that do not answer: preflight says what is wrong with them."""
    return [
        Card(index=gpu.index, name=gpu.name or UNNAMED, memory=memory, compute_capability=gpu.compute_capability)
        for gpu in gpus
        if (memory := (gpu.memory_total or 0) - (gpu.memory_reserved or 0)) > 0
    ]


def _slug(name: str) -> str:
    text = re.sub(r"[^a-z0-9.]+", "-", name.lower().removeprefix("nvidia "))
    return text[:40].strip("-.") or "gpu"


def _literal(name: str) -> str:
    """Return ``name`` as a regular expression that matches it, as readable as can be."""
    return re.sub(r"([^\w \-])", r"\\\1", name)


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else f"{noun}s"
