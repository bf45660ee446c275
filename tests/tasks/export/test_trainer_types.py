"""The types in ``tests/support/trainers`` are those of the trainers."""

import os
from pathlib import Path

import pytest

from tasks.export.formats import FORMATS
from tests.support.trainer_types import TRAINERS, TYPE_FILES, differences

SOURCES = os.environ.get("TRAINER_SOURCES")
"""A directory with unpacked wheels or checkouts of trainers."""

OURS = """
class Sample:
    ids: list[int]
    mask: list[bool] = None
"""


@pytest.mark.parametrize(
    ("trainers", "found"),
    [
        ("class Sample:\n    ids: list[int]\n    mask: list[bool] = field(default=None)", []),
        ("class Sample:\n    ids: list[int]\n    mask: list[bool] = None\n    reward: float = 0", []),
        (
            "class Sample:\n    ids: list[int]\n    mask: list[bool] = None\n    reward: float",
            ["Sample.reward is required"],
        ),
        ("class Sample:\n    ids: list[int]", ["Sample.mask is gone, not list[bool] = ..."]),
        ("class Sample:\n    ids: bytes\n    mask: list[bool] = 0", ["Sample.ids is bytes, not list[int]"]),
        ("class Row:\n    ids: list[int]", ["Sample is gone"]),
    ],
)
def test_differences_are_found(trainers: str, found: list[str]) -> None:
    assert differences(OURS, trainers) == found


@pytest.mark.parametrize("to", TYPE_FILES)
def test_the_types_name_the_version_of_the_export(to: str) -> None:
    assert FORMATS[to].source in (TRAINERS / TYPE_FILES[to]).read_text().partition("\n")[0]


@pytest.mark.skipif(SOURCES is None, reason="TRAINER_SOURCES names no directory with the sources of trainers")
@pytest.mark.parametrize("to", TYPE_FILES)
def test_the_types_are_those_of_the_trainer(to: str) -> None:
    (source,) = Path(SOURCES or "").rglob(TYPE_FILES[to])
    assert differences((TRAINERS / TYPE_FILES[to]).read_text(), source.read_text()) == []
