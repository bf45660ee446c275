"""What a card uses of ``src/prime_rl/transports/batch/types.py``, checked against prime-rl 0f59b24 (and v0.8.0)."""

import msgspec


class RoutedExperts(msgspec.Struct, array_like=True):
    data: bytes
    shape: list[int]
    dtype: str


class SamplingMask(msgspec.Struct, array_like=True):
    ids: bytes
    counts: bytes


class TrainingSample(msgspec.Struct, array_like=True):
    token_ids: list[int]
    mask: list[bool]
    logprobs: list[float]
    temperatures: list[float]
    env_name: str
    routed_experts: RoutedExperts | None = None
    advantages: list[float] | None = None
    sampling_mask: SamplingMask | None = None
