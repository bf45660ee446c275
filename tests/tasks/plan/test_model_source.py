from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.errors import ConfigError, PreflightFailed
from tasks.plan.model_source import locate_model

NAME = "org/model"
COMMIT = "0123abc"


@dataclass
class FakeHub:
    """A hub that lacks ``missing`` bytes of every model, and records which models are fetched."""

    cache: Path
    missing: int | None
    refusal: str | None = None
    fetched: list[str] = field(default_factory=list)

    def missing_bytes(self, name: str) -> int | None:
        return self.missing

    def fetch(self, name: str) -> Path:
        if self.refusal is not None:
            raise OSError(self.refusal)
        self.fetched.append(name)
        return self.cache / "snapshots" / COMMIT


@pytest.mark.parametrize("missing", [0, 1, None])
def test_a_model_that_fits_is_fetched(tmp_path: Path, missing: int | None) -> None:
    hub = FakeHub(cache=tmp_path / "not" / "made" / "yet", missing=missing)
    assert locate_model(NAME, hub) == (hub.cache / "snapshots" / COMMIT, COMMIT)
    assert hub.fetched == [NAME]


def test_a_model_that_is_too_large_for_the_disk_is_not_fetched(tmp_path: Path) -> None:
    hub = FakeHub(cache=tmp_path, missing=1 << 60)
    with pytest.raises(PreflightFailed, match=r"org/model needs 1073741824\.0 GiB more on .* GiB free.* HF_HOME"):
        locate_model(NAME, hub)
    assert hub.fetched == []


def test_a_cached_model_needs_no_room(tmp_path: Path) -> None:
    hub = FakeHub(cache=Path("/proc"), missing=0)  # a disk without any room
    assert locate_model(NAME, hub)[1] == COMMIT


def test_a_model_that_the_hub_refuses_is_bad_input(tmp_path: Path) -> None:
    hub = FakeHub(cache=tmp_path, missing=None, refusal="401 Client Error\nmore")
    with pytest.raises(ConfigError, match=r"can be fetched: 401 Client Error\. Check the name"):
        locate_model(NAME, hub)
