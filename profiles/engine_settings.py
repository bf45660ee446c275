"""The engine arguments of a profile: type, bounds, unit and meaning of each.

They have vLLM's own names. Those that are no settings of ours are passed on as they are: see profiles/vllm_keys.py.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from profiles.settings import FROM_USER, MOST_GIB, MOST_GPUS, MOST_NODES, MOST_SEQUENCES, MOST_TOKENS, Settings
from profiles.vllm_keys import check_keys

STATED_BATCH_SEQS = 256
"""Most sequences at once of a profile that states its question batch, but not max_num_seqs."""


class EngineSettings(Settings):
    """Engine arguments of one replica, under vLLM's names."""

    tensor_parallel_size: int = Field(1, ge=1, le=MOST_GPUS)
    """GPUs that share each layer of a replica's model."""
    pipeline_parallel_size: int = Field(1, ge=1, le=MOST_GPUS)
    """Groups of such GPUs in a replica, each with a part of the layers: for a model too large for the other size."""
    nodes_per_replica: int = Field(1, ge=1, le=MOST_NODES)
    """Nodes of a Ray cluster over which a replica's GPUs are spread evenly, for a model too large for one node."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of weights and activations; "auto" takes the one in the model's config."""
    max_model_len: int = Field(2048, ge=16, le=MOST_TOKENS)
    """Longest prompt and completion together, in tokens."""
    gpu_memory_utilization: float = Field(0.90, gt=0.0, le=0.98)
    """Share of each GPU's memory that the engine may take, or all together that share it."""
    enforce_eager: bool = False
    """Run without CUDA graphs: slower decode, less memory."""
    enable_chunked_prefill: bool = True
    """Prefill long prompts in several engine steps, while other sequences decode."""
    enable_prefix_caching: bool = True
    """Keep the KV cache of a prompt beginning that several prompts share, such as an arm's system prompt."""
    max_num_seqs: int | None = Field(None, ge=1, le=MOST_SEQUENCES)
    """Most sequences that the engine runs at once; None is 256, or with an "auto" batch vLLM's default."""
    max_num_batched_tokens: int | None = Field(None, ge=16, le=MOST_TOKENS)
    """Most tokens in one engine step; None leaves it to vLLM."""
    max_cudagraph_capture_size: int | None = Field(None, ge=1, le=MOST_SEQUENCES)
    """Tokens of the largest step with a captured CUDA graph; None leaves it to vLLM, or to an "auto" batch."""
    cudagraph_capture_sizes: tuple[Annotated[int, Field(ge=1, le=MOST_SEQUENCES)], ...] | None = Field(
        None, min_length=1, max_length=1_000
    )
    """Tokens of each step with a captured CUDA graph; None leaves them to vLLM, or to an "auto" batch."""
    attention_backend: str | None = None
    """vLLM attention backend, such as TRITON_ATTN; None leaves it to vLLM."""
    batch_invariant: bool = False
    """Use kernels whose result does not depend on the batch (VLLM_BATCH_INVARIANT): reproducible, slower."""
    kv_cache_space_gib: int | None = Field(None, ge=1, le=MOST_GIB)
    """Size of a CPU engine's KV cache, in whole GiB; unused on GPUs."""
    quantization: str | None = None
    """vLLM quantization method, such as fp8; None takes the one in the model's config, if any."""
    load_format: str = "auto"
    """How vLLM loads weights; "dummy" makes random ones for benchmarks."""
    trust_remote_code: bool = False
    """Run the Python code in the model's directory, if there is any."""
    core_process: bool | None = None
    """Run vLLM's engine core in a process of its own; None does so on GPUs, and not on a CPU. Several GPUs need one."""
    backend: str = Field("vllm", pattern=r"^(vllm|[\w.]+:\w+)$")
    """"vllm", or ``module:Class`` of another engine."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """Any other fields of vLLM's EngineArgs, under their own names."""

    @field_validator("vllm")
    @classmethod
    def _passed_on(cls, table: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.context == FROM_USER:
            check_keys(table, own=cls.model_fields)
            # 4 and 4.0 are one setting, and must be one run
            whole = {key: int(value) for key, value in table.items() if isinstance(value, float) and value.is_integer()}
            return table | whole
        return table

    @property
    def gpus(self) -> int:
        """GPUs of one replica, on all of its nodes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one replica on each of its nodes."""
        return self.gpus // self.nodes_per_replica

    @property
    def sequences(self) -> int:
        """Most sequences at once: max_num_seqs, or what a stated batch has without it."""
        return STATED_BATCH_SEQS if self.max_num_seqs is None else self.max_num_seqs

    @model_validator(mode="after")
    def _one_way_to_say_the_graphs(self) -> "EngineSettings":
        if self.cudagraph_capture_sizes is not None and self.max_cudagraph_capture_size is not None:
            raise ValueError("give cudagraph_capture_sizes or max_cudagraph_capture_size, not both")
        return self

    @model_validator(mode="after")
    def _several_gpus_have_a_core_process(self) -> "EngineSettings":
        if self.core_process is False and self.gpus > 1:
            size = "tensor_parallel_size" if self.tensor_parallel_size > 1 else "pipeline_parallel_size"
            raise ValueError(
                f"core_process is false, but {size} is {getattr(self, size)}: an engine of several "
                f"GPUs has its core in a process of its own. Leave core_process out, or use {size} 1"
            )
        return self

    @model_validator(mode="after")
    def _nodes_have_equal_parts(self) -> "EngineSettings":
        if self.gpus % self.nodes_per_replica:
            raise ValueError(
                f"nodes_per_replica is {self.nodes_per_replica}, which does not divide the {self.gpus} "
                f"GPU{'s' if self.gpus > 1 else ''} of tensor_parallel_size {self.tensor_parallel_size} x "
                f"pipeline_parallel_size {self.pipeline_parallel_size}: each node has as many as the others. Raise a "
                "size, or lower nodes_per_replica"
            )
        return self

    @model_validator(mode="after")
    def _prefill_fits(self) -> "EngineSettings":
        if (
            not self.enable_chunked_prefill
            and self.max_num_batched_tokens is not None
            and self.max_num_batched_tokens < self.max_model_len
        ):
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, below max_model_len {self.max_model_len}, "
                "while enable_chunked_prefill is false: a prompt must fit in one step. Raise max_num_batched_tokens"
            )
        return self


def parallel_words(engine: EngineSettings) -> str:
    """Return how an engine is spread over its GPUs, in the settings' own words."""
    stages = f" x pipeline_parallel_size {engine.pipeline_parallel_size}" if engine.pipeline_parallel_size > 1 else ""
    nodes = f" over {engine.nodes_per_replica} nodes" if engine.nodes_per_replica > 1 else ""
    return f"tensor_parallel_size {engine.tensor_parallel_size}{stages}{nodes}"
