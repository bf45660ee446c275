"""The keys of profiles: type, bounds, unit and meaning of each. An unknown key is an error.

A profile describes one hardware target. Its engine arguments are in profiles/engine_settings.py.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from profiles.engine_settings import EngineSettings, parallel_words
from profiles.settings import (
    MOST_GIB,
    MOST_GPUS,
    MOST_REPLICAS_PER_GPU,
    MOST_SECONDS,
    MOST_SEQUENCES,
    Settings,
)

AUTO: Literal["auto"] = "auto"
"""What the product chooses itself: the question batch, from the memory plan and while it runs; the profile, from the
node's GPUs."""
_COUNT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=MOST_SEQUENCES)])


def _count_or_auto(value: Any) -> Any:
    # one message, where a union would give one for each of its kinds
    try:
        return value if value == AUTO else _COUNT.validate_python(value)
    except ValidationError:
        raise PydanticCustomError("count_or_auto", 'give a whole number from 1 to 65,536, or "auto"') from None


QuestionBatch = Annotated[
    Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] | Literal["auto"], BeforeValidator(_count_or_auto)
]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


class ExpectedNode(Settings):
    """The hardware that the profile was written for. Preflight checks that the node has it."""

    device: Literal["cuda", "cpu"] = "cuda"
    """NVIDIA GPUs ("cuda"), or none ("cpu")."""
    gpu_name: Annotated[str, AfterValidator(_regular_expression)] | None = None
    """Regular expression searched in the NVML device name, such as "H100"."""
    gpu_count: int = Field(0, ge=0, le=MOST_GPUS)
    """GPUs that the profile uses on the node."""
    gpu_memory_gib: float | None = Field(None, gt=0, le=MOST_GIB)
    """Least memory per GPU, in GiB."""
    compute_capability: float | None = Field(None, ge=0, le=100)
    """Least compute capability, such as 9.0."""
    ram_gib: float | None = Field(None, gt=0, le=MOST_GIB)
    """Least host memory within the cgroup's limit, in GiB."""


_Gib = Annotated[float, Field(ge=0, le=MOST_GIB)]
_Percent = Annotated[float, Field(ge=0, le=100)]


class TelemetryTargets(Settings):
    """What a healthy run shows on this hardware. The report says which targets were met."""

    gpu_memory_gib: tuple[_Gib, _Gib] | None = None
    """Lowest and highest memory in use per GPU, in GiB."""
    gpu_utilization_percent: tuple[_Percent, _Percent] | None = None
    """Lowest and highest utilization per GPU, in percent, as a mean over the time of generation."""
    max_temperature_c: float | None = Field(None, ge=0, le=200)
    """Highest temperature of any GPU, in degrees Celsius."""


class Profile(Settings):
    """One hardware target and how to use it."""

    name: Identifier
    """Its name in reports. A shipped profile has the name of its file."""
    description: str = ""
    """One line for ``harvest profiles``."""
    model: str | None = None
    """The model when --model is not given; "demo" is the embedded one."""
    replicas: int = Field(1, ge=1, le=MOST_GPUS)
    """Engines on the node in all, each with GPUs of its own unless replicas_per_gpu is above 1."""
    replicas_per_gpu: int = Field(1, ge=1, le=MOST_REPLICAS_PER_GPU)
    """Engines that share each GPU and its gpu_memory_utilization, for models that fit more than once: replicas = 2 with
    replicas_per_gpu = 2 uses one GPU. Needs engines of one GPU, and divides replicas."""
    question_batch_size: QuestionBatch = 16
    """Questions in flight per replica; sequences in flight = questions x arms x samples. With "auto" as many as the
    memory holds, see tasks/node/auto_batch.py."""
    generation: Literal["continuous", "loop"] = "continuous"
    """"continuous" admits a question when another ends; "loop" waits for the whole batch, like the original scripts."""
    stall_timeout_s: float = Field(300.0, gt=0, le=MOST_SECONDS)
    """Seconds without a new token, with requests in flight, after which the engine counts as hung."""
    start_timeout_s: float = Field(1800.0, gt=0, le=MOST_SECONDS)
    """Seconds that an engine may take to load."""
    any_replicas: bool = False
    """Whether a run may go on with another number of replicas, as on a node with fewer GPUs. The profile that "auto"
    chooses says so: its fingerprint does not depend on the number."""
    baseline: Identifier | None = None
    """Name of the profile with the original settings for this hardware."""
    gpu_hour_usd: float | None = Field(None, ge=0, le=1_000_000)
    """Price of one GPU for one hour, in US dollars."""
    engine: EngineSettings = EngineSettings()
    """Engine arguments of each replica."""
    expect: ExpectedNode = ExpectedNode()
    """Hardware that preflight checks for."""
    targets: TelemetryTargets = TelemetryTargets()
    """Telemetry of a healthy run."""

    @field_validator("name")
    @classmethod
    def _no_name_of_ours(cls, name: str) -> str:
        if name == AUTO:
            raise PydanticCustomError(
                "taken", '"auto" means the profile chosen from the node\'s GPUs. Take another name'
            )
        return name

    @model_validator(mode="after")
    def _batches_have_a_size(self) -> "Profile":
        if self.generation == "loop" and self.question_batch_size == AUTO:
            raise ValueError(
                'question_batch_size is "auto", but generation = "loop" waits for a whole batch, which needs a size. '
                "Give a number"
            )
        return self

    @property
    def gpus(self) -> int:
        """GPUs that all replicas take together on a node; 0 for a CPU profile."""
        if self.expect.device == "cpu":
            return 0
        return self.replicas * self.engine.gpus_per_node // self.replicas_per_gpu

    @model_validator(mode="after")
    def _nodes_hold_one_replica(self) -> "Profile":
        nodes = self.engine.nodes_per_replica
        if nodes > 1 and self.expect.device == "cpu":
            raise ValueError(
                f'nodes_per_replica is {nodes}, but expect.device is "cpu": vLLM joins GPUs only. Leave '
                "nodes_per_replica out"
            )
        if nodes > 1 and self.replicas > 1:
            raise ValueError(
                f"replicas is {self.replicas}, and nodes_per_replica {nodes}: a replica over several nodes is the only "
                f"one on them, and each further {nodes} nodes have another. Leave replicas out, and use larger sizes "
                "for more of each node's GPUs"
            )
        return self

    @model_validator(mode="after")
    def _cpus_can_do_it(self) -> "Profile":
        if self.expect.device == "cpu" and self.engine.pipeline_parallel_size > 1:
            raise ValueError(
                f'pipeline_parallel_size is {self.engine.pipeline_parallel_size}, but expect.device is "cpu": vLLM\'s '
                "engine for CPUs fails in its first step when a stage was not warmed up, as with a KV cache of stated "
                "size. Leave pipeline_parallel_size out"
            )
        if self.expect.device == "cpu" and self.engine.vllm.get("kv_offloading_size"):
            raise ValueError(
                f'kv_offloading_size is {self.engine.vllm["kv_offloading_size"]}, but expect.device is "cpu": vLLM '
                "moves KV cache from GPUs only. Leave kv_offloading_size out"
            )
        return self

    @model_validator(mode="after")
    def _gpus_can_be_shared(self) -> "Profile":
        count = self.replicas_per_gpu
        if count == 1:
            return self
        if self.expect.device != "cuda" or self.engine.gpus != 1:
            raise ValueError(
                f"replicas_per_gpu is {count}, with {parallel_words(self.engine)} and expect.device "
                f'"{self.expect.device}". Engines share a GPU only with tensor_parallel_size 1 and device "cuda". '
                "Leave replicas_per_gpu out"
            )
        if self.replicas % count:
            raise ValueError(
                f"replicas is {self.replicas}, the engines on all GPUs together, and replicas_per_gpu {count} does not "
                f"divide it. Set replicas to {count} for one GPU, {2 * count} for two, and so on"
            )
        return self

    @model_validator(mode="after")
    def _gpus_suffice(self) -> "Profile":
        if 0 < self.expect.gpu_count < self.gpus:
            shared = f", {self.replicas_per_gpu} on each GPU," if self.replicas_per_gpu > 1 else ""
            each = " on each" if self.engine.nodes_per_replica > 1 else ""
            raise ValueError(
                f"{self.replicas} replicas of {parallel_words(self.engine)}{shared} need "
                f"{self.gpus} GPUs{each}, but expect.gpu_count is {self.expect.gpu_count}. Lower replicas or "
                "tensor_parallel_size"
            )
        return self
