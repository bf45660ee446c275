"""The base of all settings that users write, and bounds of their numbers."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

# bounds that only a slip of the pen exceeds, which is then refused before anything is multiplied by it
MOST_GPUS = 1024
MOST_NODES = 64
MOST_TOKENS = 2**24
"""Longer than the context of any model."""
MOST_SEQUENCES = 2**16
MOST_GIB = 2**16
MOST_SECONDS = 10_000_000
MOST_REPLICAS_PER_GPU = 8
MOST_SAMPLES = 100_000
"""The most rollouts of a question, over all arms: they are in memory together."""

RIGHT_AT = 1.0
"""A rollout is right when its reward is at least this, unless the run's ``right_at`` says another value."""

FROM_USER = "from a user"
"""Context of a validation in which fields of vLLM are checked. A stored run may be of another version of vLLM."""


class Settings(BaseModel):
    """Base of all settings: frozen. An unknown key is an error, and so is a number that is infinite or none."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1
        if isinstance(value, bool) and info.field_name:
            allowed = cls.model_fields[info.field_name].annotation
            if bool not in (allowed, *get_args(allowed)):
                raise PydanticCustomError("no_flag", "it cannot be true or false")
        return value
