"""What a CUDA engine takes beside weights and KV cache: an estimate, since vLLM measures it only when it starts.

vLLM profiles one forward pass of max_num_batched_tokens and one sampling of max_num_seqs rows (v1/worker/
gpu_worker.py, ``determine_available_memory``) and gives the rest of ``gpu_memory_utilization`` to the KV cache. The
two peaks do not overlap. CUDA graphs come on top: one piecewise graph per captured size, and a full one per size that
a decode step can have. Start-up logs show 0.17 to 0.4 GiB for 16 to 35 graphs of one kind, and 0.54 GiB for 51 and 35
of both (infra/gpu-bench/RESULTS.md), so 8 MiB a graph is taken here.
"""

from profiles.schema import EngineSettings
from tasks.model_shape import ModelShape

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
