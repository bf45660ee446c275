"""Computes the weights per GPU of an engine of several GPUs, from safetensors headers or a dense model's config.

vLLM's rule (model_executor/layers/linear.py, vocab_parallel_embedding.py): projections and embeddings are split over
the GPUs. K and V are repeated where there are fewer KV heads than GPUs. Norms, routers and the biases of row-parallel
layers are whole on every GPU. With expert parallelism each GPU has whole experts instead of a part of each, and with
pipeline parallelism each stage has some of the layers, the first the embeddings and the last the output layer.
"""

import math
import re
from collections.abc import Iterable
from fractions import Fraction

from profiles.engine_settings import EngineSettings
from tasks.node.passed_on_memory import quantizes_to_fp8
from tasks.plan.adapter_source import LoraSlots
from tasks.plan.model_shape import ModelShape
from tasks.plan.safetensors_header import TensorInfo

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_REPLICATED_BIASES = ("o_proj.bias", "down_proj.bias", "dense.bias", "w2.bias")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_SPLIT = ("_proj", "experts.", "embed_tokens", "lm_head", "qkv", "gate_up", "c_fc", "c_proj")


def weight_bytes_per_gpu(tensors: Iterable[TensorInfo], shape: ModelShape, engine: EngineSettings) -> int:
    """Bytes of weights on the GPU that holds the most. The engine holds floating-point weights in its own dtype."""
    totals = [0] * engine.pipeline_parallel_size
    ends = [sum(shape.stages(len(totals))[: stage + 1]) for stage in range(len(totals))]
    for tensor in tensors:
        if _is_loaded(tensor, shape):
            size = _bytes(tensor, shape, engine)
            for stage in _stages_of(tensor, shape, ends):
                totals[stage] += size
    return max(totals)


def lora_bytes_per_gpu(tensors: Iterable[TensorInfo], shape: ModelShape, lora: LoraSlots) -> int:
    """Bytes of the room for LoRA adapters: in every linear layer, whether or not an adapter changes it.

    vLLM's rule (lora/layers/base_linear.py): for each slot (rank, inputs) and (outputs, rank), in the engine's dtype.
    Under tensor parallelism this is an upper bound, as it splits one of the two.
    """
    layers = [tensor.shape for tensor in tensors if _is_linear(tensor)]
    return sum(lora.slots * lora.rank * (rows + columns) for rows, columns in layers) * shape.dtype_bytes


def _is_linear(tensor: TensorInfo) -> bool:
    vocabulary = "embed_tokens" in tensor.name or tensor.name.startswith("lm_head")
    return len(tensor.shape) == 2 and tensor.name.endswith(".weight") and not vocabulary


def dense_tensors(shape: ModelShape) -> list[TensorInfo]:
    """The tensors of a dense Llama- or Qwen-like checkpoint of this shape, for a model without weight files."""
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


def _stages_of(tensor: TensorInfo, shape: ModelShape, ends: list[int]) -> set[int]:
    """Return the pipeline stages that hold the tensor; ``ends`` has the number of the first layer after each."""
    first, last = 0, len(ends) - 1
    if (layer := _LAYER.search(tensor.name)) is not None:
        return {next((stage for stage, end in enumerate(ends) if int(layer.group(1)) < end), last)}
    if "embed_tokens" in tensor.name:
        return {first, last} if shape.tied_embeddings else {first}
    return {last}


def _bytes(tensor: TensorInfo, shape: ModelShape, engine: EngineSettings) -> int:
    size = engine.tensor_parallel_size
    if "embed_tokens" in tensor.name or tensor.name.startswith("lm_head"):
        padded = -(-tensor.shape[0] // VOCAB_PADDING) * VOCAB_PADDING
        elements = padded * math.prod(tensor.shape[1:]) // size
    else:
        elements = math.ceil(tensor.elements * _share(tensor, shape, engine))
        if quantizes_to_fp8(engine) and not shape.quantized and _is_projection(tensor):
            return elements
    if tensor.dtype in _FLOATS and not shape.quantized:
        return elements * shape.dtype_bytes
    return elements * tensor.nbytes // max(1, tensor.elements)


def _is_projection(tensor: TensorInfo) -> bool:
    name = tensor.name
    return any(part in name for part in _SPLIT) and name.endswith("weight") and "norm" not in name


def _share(tensor: TensorInfo, shape: ModelShape, engine: EngineSettings) -> Fraction:
    """The share of the tensor that vLLM puts on each GPU of a stage."""
    name, size = tensor.name, engine.tensor_parallel_size
    if ".experts." in name and engine.vllm.get("enable_expert_parallel") and shape.experts:
        return Fraction(math.ceil(shape.experts / size), shape.experts)
    if not any(part in name for part in _SPLIT) or name.endswith(_REPLICATED_BIASES) or "layernorm" in name:
        return Fraction(1)
    query, key_value = Fraction(1, size), Fraction(1, min(size, shape.kv_heads))
    if "qkv" in name:  # Q, K and V of a layer are one tensor, as in Phi-3
        return (shape.heads * query + 2 * shape.kv_heads * key_value) / (shape.heads + 2 * shape.kv_heads)
    return key_value if "k_proj" in name or "v_proj" in name else query
