"""KV cache arithmetic of vLLM 0.32 for full-attention models, block for block (v1/core/kv_cache_utils.py)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from profiles.schema import EngineSettings
from tasks.plan.model_files import TensorInfo
from tasks.plan.model_shape import ModelShape

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


# MERGED from @engine_reserve: What a CUDA engine takes beside weights and KV cache: an estimate,
# since vLLM measures it only when it starts.
#
# vLLM profiles one forward pass of max_num_batched_tokens and one sampling of max_num_seqs rows (v1/worker/
# gpu_worker.py, ``determine_available_memory``) and gives the rest of ``gpu_memory_utilization`` to the KV cache. The
# two peaks do not overlap. CUDA graphs come on top: one piecewise graph per captured size, and a full one per size that
# a decode step can have. Start-up logs show 0.17 to 0.4 GiB for 16 to 35 graphs of one kind, and 0.54 GiB for 51 and 35
# of both (infra/gpu-bench/RESULTS.md), so 8 MiB a graph is taken here.
WORKSPACE_BYTES = 512 << 20
"""Attention and cuBLAS workspaces, allocator fragments and NCCL buffers: the remainder seen in start-up logs."""

GRAPH_BYTES = 8 << 20
LARGEST_DEFAULT_CAPTURE = 512
SAMPLER_BYTES_PER_LOGIT = 24
"""bf16 logits, their float32 copy, sorted values with int64 indices, and float32 probabilities."""

_LARGE_GPU = 70 << 30


def batched_tokens(engine: EngineSettings, gpu_bytes: int, gpu_name: str = "") -> int:
    """max_num_batched_tokens as vLLM resolves it for offline use (engine/arg_utils.py, ``get_batch_defaults``)."""
    if engine.max_num_batched_tokens is not None:
        return engine.max_num_batched_tokens
    default = 16384 if gpu_bytes >= _LARGE_GPU and "a100" not in gpu_name.lower() else 8192
    if not engine.enable_chunked_prefill:
        default = max(default, engine.max_model_len)
    return min(default, engine.max_num_seqs * engine.max_model_len)


def captured_graphs(engine: EngineSettings) -> int:
    """Number of CUDA graphs; their sizes are 1, 2, 4, then steps of 8 up to 256 and of 16 above (config/vllm.py)."""
    if engine.enforce_eager:
        return 0
    largest = engine.max_cudagraph_capture_size or min(2 * engine.max_num_seqs, LARGEST_DEFAULT_CAPTURE)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_DEFAULT_CAPTURE + 1, 16)]
    captured = [size for size in sizes if size <= largest]
    full = [size for size in captured if size <= engine.max_num_seqs]
    return len(captured) + len(full)


def reserve_bytes(shape: ModelShape, engine: EngineSettings, gpu_bytes: int, gpu_name: str = "") -> int:
    """Estimated bytes per GPU for activations, CUDA graphs and workspaces."""
    size = engine.tensor_parallel_size
    tokens = batched_tokens(engine, gpu_bytes, gpu_name)
    # the widest moment of a layer: residual, normed input, fused gate and up, and their product
    layer = tokens * (2 * shape.hidden + 3 * shape.intermediate // size) * shape.dtype_bytes
    sampler = engine.max_num_seqs * shape.vocab * SAMPLER_BYTES_PER_LOGIT
    graphs = captured_graphs(engine) * GRAPH_BYTES
    return max(layer, sampler) + graphs + WORKSPACE_BYTES


# MERGED from @weight_memory: Weights per GPU under tensor parallelism, from safetensors headers or,
# for a dense model, from its config.
#
# vLLM's rule (model_executor/layers/linear.py, vocab_parallel_embedding.py): projections and embeddings are split over
# the GPUs, K and V repeated where there are fewer KV heads than GPUs; norms, routers and the biases of row-parallel
# layers are whole on every GPU.
VOCAB_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_REPLICATED_BIASES = ("o_proj.bias", "down_proj.bias", "dense.bias", "w2.bias")
_SPLIT = ("_proj", "experts.", "embed_tokens", "lm_head", "qkv", "gate_up", "c_fc", "c_proj")


def weight_bytes_per_gpu(tensors: Iterable[TensorInfo], shape: ModelShape, tensor_parallel_size: int) -> int:
    """Bytes of weights on the fullest GPU, as the engine holds them: floating-point weights in its own dtype."""
    return sum(_bytes(tensor, shape, tensor_parallel_size) for tensor in tensors if _is_loaded(tensor, shape))


def dense_tensors(shape: ModelShape) -> list[TensorInfo]:
    """The tensors of a dense Llama- or Qwen-like checkpoint of this shape, when there is no file to look at."""
    hidden, query = shape.hidden, shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_proj.weight": (shape.intermediate, hidden),
        "mlp.up_proj.weight": (shape.intermediate, hidden),
        "mlp.down_proj.weight": (hidden, shape.intermediate),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if shape.qkv_bias:
        layer |= {f"self_attn.{name}_proj.bias": (rows,) for name, rows in (("q", query), ("k", keys), ("v", keys))}
    if shape.family == "qwen3":
        layer |= {f"self_attn.{name}_norm.weight": (shape.head_dim,) for name in "qk"}
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{index}.{name}": dimensions
        for index in range(shape.layers)
        for name, dimensions in layer.items()
    }
    shapes["model.embed_tokens.weight"] = (shape.vocab, hidden)
    shapes["model.norm.weight"] = (hidden,)
    if not shape.tied_embeddings:
        shapes["lm_head.weight"] = (shape.vocab, hidden)
    return [
        TensorInfo(name=name, dtype="BF16", shape=dimensions, nbytes=2 * math.prod(dimensions))
        for name, dimensions in shapes.items()
    ]


def _is_loaded(tensor: TensorInfo, shape: ModelShape) -> bool:
    if shape.tied_embeddings and tensor.name.startswith("lm_head"):
        return False
    return not tensor.name.endswith("rotary_emb.inv_freq")


def _bytes(tensor: TensorInfo, shape: ModelShape, size: int) -> int:
    if "embed_tokens" in tensor.name or tensor.name.startswith("lm_head"):
        padded = -(-tensor.shape[0] // VOCAB_PADDING) * VOCAB_PADDING
        elements = padded * math.prod(tensor.shape[1:]) // size
    else:
        elements = math.ceil(tensor.elements * _share(tensor, shape, size))
    if tensor.dtype in _FLOATS and not shape.quantized:
        return elements * shape.dtype_bytes
    return elements * tensor.nbytes // max(1, tensor.elements)


def _share(tensor: TensorInfo, shape: ModelShape, size: int) -> Fraction:
    """Which share of the tensor vLLM puts on each GPU."""
    name = tensor.name
    if not any(part in name for part in _SPLIT) or name.endswith(_REPLICATED_BIASES) or "layernorm" in name:
        return Fraction(1)
    query, key_value = Fraction(1, size), Fraction(1, min(size, shape.kv_heads))
    if "qkv" in name:  # Q, K and V of a layer in one tensor, as Phi-3 has them
        return (shape.heads * query + 2 * shape.kv_heads * key_value) / (shape.heads + 2 * shape.kv_heads)
    return key_value if "k_proj" in name or "v_proj" in name else query
