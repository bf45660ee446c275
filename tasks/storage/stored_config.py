"""What readers of a run need of its config.json. What a run of an earlier version does not say has a default."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from profiles.settings import MOST_SAMPLES, RIGHT_AT
from tasks.files import read_record
from tasks.records import RunPaths

MOST_SHARDS = 1_000_000
"""More shards than a run can have: a larger number is damage."""

_Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]


@dataclass(frozen=True, kw_only=True)
class StoredSampling:
    """What decides how many rollouts there are, how long they are, and what is stored of them."""

    samples_per_arm: _Samples = 1
    max_samples_per_arm: _Samples | None = None
    sample_until: str | None = None
    wave_size: _Samples | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    lengths: dict[str, Any] | None = None
    """How lengths were drawn, for a benchmark; None when the model ended its completions."""
    top_logprobs: int = 0
    sampling_mask: bool = False
    routed_experts: bool = False

    @property
    def stored(self) -> tuple[int, bool, bool]:
        """What is stored with each token."""
        return self.top_logprobs, self.sampling_mask, self.routed_experts


@dataclass(frozen=True, kw_only=True)
class StoredChoices:
    """What the user asked for."""

    sampling: StoredSampling = StoredSampling()
    dataset: dict[str, Any] = field(default_factory=dict)
    right_at: float = RIGHT_AT


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    path: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """The parts of a config.json that have a meaning here; any other key is ignored."""

    fingerprint: str | None = None
    num_shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] | None = None
    comparable: dict[str, Any] = field(default_factory=dict)
    tested: dict[str, Any] = field(default_factory=dict)
    config: StoredChoices = StoredChoices()
    model: StoredModel = StoredModel()


def read_stored_config(run_dir: Path) -> StoredConfig:
    """Return what the run's config.json says; the defaults where there is none. Raises DamagedRecord."""
    return read_record(RunPaths(root=run_dir).config, StoredConfig) or StoredConfig()
