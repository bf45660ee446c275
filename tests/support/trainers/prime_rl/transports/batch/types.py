"""What a card uses of ``src/prime_rl/transports/batch/types.py``, checked against prime-rl 0f59b24 (and v0.8.0)."""

import msgspec


class TrainingSample(msgspec.Struct, array_like=True):
    token_ids: list[int]
    mask: list[bool]
    logprobs: list[float]
    temperatures: list[float]
    env_name: str
    advantages: list[float] | None = None
