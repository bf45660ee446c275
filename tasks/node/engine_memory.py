"""Computes the memory that an engine needs beside its weights: the KV cache and the reserve.

The KV cache follows vLLM 0.32 block for block, for full-attention models (v1/core/kv_cache_utils.py).

The reserve is for activations, CUDA graphs and workspaces. It is an estimate, since vLLM measures it only when it
starts. vLLM profiles one forward pass of
max_num_batched_tokens and one sampling of max_num_seqs rows (v1/worker/gpu_worker.py, ``determine_available_memory``)
and gives the rest of ``gpu_memory_utilization`` to the KV cache. The two peaks do not overlap. CUDA graphs come on top:
one piecewise graph per captured size, and a full one per size that a decode step can have. Start-up logs show 0.17 to
0.4 GiB for 16 to 35 graphs of one kind, and 0.54 GiB for 51 and 35 of both (infra/gpu-bench/RESULTS.md), so the
estimate takes 8 MiB a graph. All graphs share one pool for their activations, which has the size of the largest one's.
Up to vLLM's own 512 tokens that is in the 8 MiB.
"""

from dataclasses import dataclass

from profiles.engine_settings import EngineSettings
from tasks.node.cuda_graphs import LARGEST_DEFAULT_CAPTURE, captured_graphs, sizes_of
from tasks.node.passed_on_memory import kv_element_bytes
from tasks.plan.model_shape import ModelShape
from tasks.units import GIB

CPU_BLOCK_SIZE = 128
"""Tokens per block on CPUs (platforms/cpu.py)."""

GPU_BLOCK_SIZE = 16
"""Tokens per block of vLLM's CUDA attention backends (config/cache.py)."""

WORKSPACE_BYTES = 512 << 20
"""Attention and cuBLAS workspaces, allocator fragments and NCCL buffers: the rest that start-up logs show."""

GRAPH_BYTES = 8 << 20
SAMPLER_BYTES_PER_LOGIT = 24
"""bf16 logits, their float32 copy, sorted values with int64 indices, and float32 probabilities."""


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """The KV cache of one engine."""

    bytes_per_token: int
    """Bytes per token on each GPU."""
    block_size: int
    """Tokens per block."""
    blocks: int
    max_model_len: int
    """Most tokens of a sequence."""

    @property
    def tokens(self) -> int:
        """The number of tokens that vLLM logs as "KV cache size": sequences of max_model_len, times that length."""
        return int(self.blocks / self._blocks_for(self.max_model_len) * self.max_model_len)

    @property
    def usable_blocks(self) -> int:
        """Blocks that sequences can use: all but vLLM's null block."""
        return max(0, self.blocks - 1)

    def sequences(self, length: int) -> int:
        """Number of sequences of ``length`` tokens that fit at the same time when they share no prefix."""
        return self.usable_blocks // self._blocks_for(length)

    def _blocks_for(self, length: int) -> int:
        return -(-max(1, length) // self.block_size)


def kv_cache(
    shape: ModelShape, engine: EngineSettings, budget: int, *, device: str, draft_per_token: int = 0
) -> KvCache:
    """The cache that vLLM makes from ``budget`` bytes per GPU; ``device`` is "cuda" or "cpu".

    ``draft_per_token`` are bytes of a draft model's layers.
    """
    per_token = kv_bytes_per_token(shape, engine) + draft_per_token
    block_size = engine.vllm.get("block_size") or (CPU_BLOCK_SIZE if device == "cpu" else GPU_BLOCK_SIZE)
    blocks = max(0, budget) // (per_token * block_size)
    return KvCache(
        bytes_per_token=per_token,
        block_size=block_size,
        blocks=engine.vllm.get("num_gpu_blocks_override") or blocks,
        max_model_len=engine.max_model_len,
    )


def kv_bytes_per_token(shape: ModelShape, engine: EngineSettings) -> int:
    """Bytes per token and GPU: a key and a value vector per layer, of the stage with the most, and KV head."""
    heads = shape.kv_heads_per_gpu(engine.tensor_parallel_size)
    layers = max(shape.stages(engine.pipeline_parallel_size))
    return 2 * layers * heads * shape.head_dim * kv_element_bytes(shape, engine)


def default_batched_tokens(gpu_bytes: int, gpu_name: str) -> int:
    """vLLM's default max_num_batched_tokens for offline use on a GPU (engine/arg_utils.py, ``get_batch_defaults``).

    When the size is unknown (0), it is the smaller of vLLM's two defaults.
    """
    return 16384 if _is_large(gpu_bytes, gpu_name) else 8192


def default_sequences(gpu_bytes: int, gpu_name: str) -> int:
    """vLLM's default max_num_seqs, from the same function; also that of a CPU (0 bytes)."""
    return 1024 if _is_large(gpu_bytes, gpu_name) else 256


def _is_large(gpu_bytes: int, gpu_name: str) -> bool:
    return gpu_bytes >= 160 * GIB or (gpu_bytes >= 70 * GIB and "a100" not in gpu_name.lower())


def batched_tokens(engine: EngineSettings, gpu_bytes: int, gpu_name: str = "") -> int:
    """max_num_batched_tokens as vLLM resolves it: the setting, or the default within the limits of ``engine``."""
    if engine.max_num_batched_tokens is not None:
        return engine.max_num_batched_tokens
    default = default_batched_tokens(gpu_bytes, gpu_name)
    if not engine.enable_chunked_prefill:
        default = max(default, engine.max_model_len)
    return min(default, engine.sequences * engine.max_model_len)


def reserve_bytes(shape: ModelShape, engine: EngineSettings, gpu_bytes: int, gpu_name: str = "") -> int:
    """Estimated bytes per GPU for activations, CUDA graphs and workspaces."""
    size = engine.tensor_parallel_size
    tokens = batched_tokens(engine, gpu_bytes, gpu_name)
    # the peak within a layer: residual, normed input, fused gate and up, and their product
    per_token = (2 * shape.hidden + 3 * shape.intermediate // size) * shape.dtype_bytes
    sampler = engine.sequences * shape.vocab * SAMPLER_BYTES_PER_LOGIT
    graphs = captured_graphs(engine) * GRAPH_BYTES
    pool = max(0, max(sizes_of(engine), default=0) - LARGEST_DEFAULT_CAPTURE) * per_token
    return max(tokens * per_token, sampler) + graphs + pool + WORKSPACE_BYTES
