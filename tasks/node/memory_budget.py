"""Divides a device's memory between a model's weights, the reserve and the KV cache, for any settings of an engine.

Of a GPU that several engines share, it is the part of one engine.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from profiles.engine_settings import EngineSettings
from profiles.schema import Profile
from tasks.node.draft_memory import draft_memory
from tasks.node.engine_memory import KvCache, kv_cache, reserve_bytes
from tasks.node.gpu_sharing import share_gpu
from tasks.node.host_memory import read_host_memory
from tasks.node.passed_on_memory import offloaded_weights, quantizes_to_fp8, stated_kv_bytes
from tasks.node.weight_memory import dense_tensors, lora_bytes_per_gpu, weight_bytes_per_gpu
from tasks.plan.adapter_source import LoraSlots
from tasks.plan.model_config import read_model_config
from tasks.plan.model_files import read_weights
from tasks.plan.model_shape import ModelShape, read_shape
from tasks.units import GIB

CPU_ENGINE_BYTES = 3 << 29
"""Resident memory of a CPU engine beside weights and KV cache: Python, torch and vLLM themselves."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The parts of the memory beside the weights, per GPU. A part is None when it is unknown."""

    device_bytes: int | None = None
    engine_bytes: int | None = None
    """What one engine may take in all."""
    reserve_bytes: int | None = None
    kv_budget_bytes: int | None = None
    is_estimate: bool = False


class MemoryBudget:
    """The memory of ``profile``'s device with the model in ``model_path``. It loads no weights.

    ``lora`` is the room for adapters, which counts as weights. Raises UnknownLayoutError when the model's layers are
    not known, and ConfigError when its files cannot be read.
    """

    def __init__(
        self, profile: Profile, model_path: Path, gpu_bytes: int | None, gpu_name: str, lora: LoraSlots | None = None
    ) -> None:
        self._profile, self._gpu_bytes, self._gpu_name = profile, gpu_bytes, gpu_name
        self.shape = read_shape(read_model_config(model_path), profile.engine)
        self.draft = draft_memory(profile.engine)
        weights = _weights(model_path, self.shape, profile, lora)
        if weights is not None:
            weights = max(0, weights + self.draft.weight_bytes - offloaded_weights(profile.engine))
        self.weight_bytes = weights

    def divide(self, engine: EngineSettings, *, engines: int | None = None) -> Budget:
        """Return the parts for ``engine``: the profile's settings, or changed ones.

        ``engines`` is how many share a GPU; its default is the profile's replicas_per_gpu.
        """
        engine = share_gpu(engine, engines or self._profile.replicas_per_gpu, self._gpu_bytes)
        stated = stated_kv_bytes(engine)
        if self._profile.expect.device == "cpu":
            total = read_host_memory().total
            if stated is not None:
                return Budget(device_bytes=total, kv_budget_bytes=stated)
            if engine.kv_cache_space_gib is not None:
                return Budget(device_bytes=total, kv_budget_bytes=int(engine.kv_cache_space_gib * GIB))
            reserve = CPU_ENGINE_BYTES
        elif self._gpu_bytes is None:
            return Budget()
        else:
            total = self._gpu_bytes
            reserve = reserve_bytes(self.shape, engine, total, self._gpu_name)
        taken, budget = math.ceil(total * engine.gpu_memory_utilization), None
        if self.weight_bytes is not None:
            budget = max(0, taken - self.weight_bytes - reserve)
        return Budget(
            device_bytes=total,
            engine_bytes=taken,
            reserve_bytes=reserve,
            kv_budget_bytes=budget if stated is None else stated,
            is_estimate=stated is None,
        )

    def cache(self, engine: EngineSettings, *, engines: int | None = None) -> KvCache | None:
        """Return the KV cache that ``engine`` gets, or None when its size is unknown; ``engines`` as in ``divide``."""
        budget = self.divide(engine, engines=engines).kv_budget_bytes
        device = self._profile.expect.device
        if budget is None:
            return None
        beside = self.draft.kv_bytes_per_token
        return kv_cache(self.shape, engine, budget, device=device, draft_per_token=beside)


def _weights(model_path: Path, shape: ModelShape, profile: Profile, lora: LoraSlots | None) -> int | None:
    tensors = read_weights(model_path)
    as_stored = profile.engine.quantization is None or quantizes_to_fp8(profile.engine)
    if not tensors and shape.is_dense and not shape.quantized and as_stored:
        tensors = tuple(dense_tensors(shape))
    if not tensors:
        return None
    own = weight_bytes_per_gpu(tensors, shape, profile.engine)
    return own + (0 if lora is None else lora_bytes_per_gpu(tensors, shape, lora))
