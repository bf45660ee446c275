"""Placeholders become the day, in any format, and the complete models that match."""

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import ConfigError
from tasks.plan.placeholders import fill_placeholders, has_placeholder

DAY = datetime.date(2026, 3, 9)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"name": "nightly-{date}"}, {"name": "nightly-2026-03-09"}),
        ({"dataset": "data/{date:%Y/%m}/{date:%d}.jsonl"}, {"dataset": "data/2026/03/09.jsonl"}),
        ({"upload": "s3://bucket/{date:%G-W%V}"}, {"upload": "s3://bucket/2026-W11"}),
        ({"seed": "{date}"}, {"seed": 20260309}),
        ({"seed": 7, "questions": 3, "model": None}, {"seed": 7, "questions": 3, "model": None}),
        ({"scorer": "{date}"}, {"scorer": "{date}"}),
        ({"dataset": "{dates}.jsonl"}, {"dataset": "{dates}.jsonl"}),
    ],
)
def test_dates_are_filled_in_once(given: dict[str, Any], resolved: dict[str, Any]) -> None:
    assert fill_placeholders(given, DAY) == resolved
    assert fill_placeholders(resolved, DAY + datetime.timedelta(1)) == resolved


def test_a_seed_must_become_a_number() -> None:
    with pytest.raises(ConfigError, match="seed is '7x'"):
        fill_placeholders({"seed": "7x"}, DAY)


def test_a_pattern_means_all_complete_models_or_the_newest(tmp_path: Path) -> None:
    for age, step in enumerate(("step-1000", "step-900", "step-1100")):
        _model(tmp_path / step, written=2_000_000_000 - 60 * age)
    (tmp_path / "step-1200").mkdir()
    half = _model(tmp_path / "step-1300", written=2_000_000_500)
    weights = half / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    pattern = str(tmp_path / "step-*")
    assert has_placeholder({"model": pattern}, "model")
    assert fill_placeholders({"model": pattern}, DAY)["model"] == str(tmp_path / "step-1000")
    newest = fill_placeholders({"model": pattern, "checkpoints": "newest"}, DAY)
    assert newest == {"model": str(tmp_path / "step-1000"), "checkpoints": [str(tmp_path / "step-1000")]}
    told: list[str] = []
    filled = fill_placeholders({"model": pattern, "checkpoints": "all"}, DAY, told.append)
    models = [str(tmp_path / f"step-{step}") for step in (900, 1000, 1100)]
    assert filled == {"model": models[0], "checkpoints": models}
    assert fill_placeholders(filled, DAY) == filled
    # a retry of a flow run takes both as they were recorded
    given = {"model": pattern, "checkpoints": "all"}
    assert [name for name in given if has_placeholder(given, name)] == ["model", "checkpoints"]
    assert not [name for name in filled if has_placeholder(filled, name)]
    assert [text.partition("complete: ")[2].partition(":")[0] for text in told] == ["step-1200", "step-1300"]


def test_a_model_whose_name_exists_is_no_pattern(tmp_path: Path) -> None:
    model = _model(tmp_path / "step*", written=1_000_000_000)
    _model(tmp_path / "step-9", written=2_000_000_000)
    assert not has_placeholder({"model": str(model)}, "model")
    assert fill_placeholders({"model": str(model)}, DAY)["model"] == str(model)


def test_a_link_to_the_latest_model_is_followed(tmp_path: Path) -> None:
    model = _model(tmp_path / "step-5", written=2_000_000_000)
    (tmp_path / "latest").symlink_to(model)
    assert fill_placeholders({"model": str(tmp_path / "latest")}, DAY)["model"] == str(model)


def test_a_pattern_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    with pytest.raises(ConfigError, match=r"matches 1 paths, none .* complete model\. The last is step-1: .*config"):
        fill_placeholders({"model": str(tmp_path / "step-*")}, DAY)


def _model(path: Path, *, written: int) -> Path:
    shutil.copytree(DEMO_MODEL, path)
    os.utime(path / "model.safetensors", (written, written))
    return path
