"""KV cache arithmetic of vLLM 0.32 for full-attention models, block for block (v1/core/kv_cache_utils.py)."""

from dataclasses import dataclass

from profiles.schema import EngineSettings
from tasks.model_shape import ModelShape

CPU_BLOCK_SIZE = 128
"""Tokens per block on CPUs (platforms/cpu.py)."""

GPU_BLOCK_SIZE = 16
"""Tokens per block of vLLM's CUDA attention backends (config/cache.py)."""


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """A KV cache of ``blocks`` blocks, each of ``block_size`` tokens; bytes are per GPU."""

    bytes_per_token: int
    block_size: int
    blocks: int
    max_model_len: int

    @property
    def tokens(self) -> int:
        """The figure that vLLM logs as "KV cache size": whole sequences of max_model_len, times that length."""
        return int(self.blocks / self._blocks_for(self.max_model_len) * self.max_model_len)

    @property
    def usable_blocks(self) -> int:
        """vLLM keeps one block back as its null block."""
        return max(0, self.blocks - 1)

    def sequences(self, length: int) -> int:
        """How many sequences of ``length`` tokens fit at the same time, sharing no prefix."""
        return self.usable_blocks // self._blocks_for(length)

    def _blocks_for(self, length: int) -> int:
        return -(-max(1, length) // self.block_size)


def kv_cache(shape: ModelShape, engine: EngineSettings, budget: int, *, device: str) -> KvCache:
    """The cache that vLLM makes of ``budget`` bytes per GPU; ``device`` is "cuda" or "cpu"."""
    per_token = kv_bytes_per_token(shape, engine.tensor_parallel_size)
    block_size = CPU_BLOCK_SIZE if device == "cpu" else GPU_BLOCK_SIZE
    return KvCache(
        bytes_per_token=per_token,
        block_size=block_size,
        blocks=max(0, budget) // (per_token * block_size),
        max_model_len=engine.max_model_len,
    )


def kv_bytes_per_token(shape: ModelShape, tensor_parallel_size: int) -> int:
    """Bytes per token and GPU: a key and a value vector per layer and KV head."""
    heads = shape.kv_heads_per_gpu(tensor_parallel_size)
    return 2 * shape.layers * heads * shape.head_dim * shape.dtype_bytes
