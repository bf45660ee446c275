"""Runs are found by path, id, unique beginning of an id, or as the latest."""

import datetime
import os
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.plan.placeholders import fill_placeholders, has_placeholder
from tasks.plan.run_directory import find_run
from tests.support.synthetic import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for age, name in enumerate(("step-20", "step-2", "step-1", "other")):
        paths = write_run(folder / name, shards=1)
        for path in (paths.config, paths.manifest):
            if path.exists():
                os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("step-2", "step-2"),
        ("step-20", "step-20"),
        ("step-1", "step-1"),
        ("o", "other"),
        ("latest", "step-20"),
        ("./other", "other"),
    ],
)
def test_a_run_is_found(runs: Path, name: str, found: str) -> None:
    assert find_run(name, runs) == runs / found
    assert find_run(str(runs / found), runs / "elsewhere") == runs / found


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("step", "3 runs begin with 'step': step-1, step-2, step-20. Give more of the id"),
        ("otehr", "Did you mean other? Give one of these"),
        ("x", "run 'x' is neither a run directory nor a run id"),
        ("", "a path is empty"),
    ],
)
def test_another_name_is_refused(runs: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]+$") as refused:
        find_run(name, runs)
    assert told in str(refused.value)


def test_of_many_runs_that_a_name_begins_a_few_are_listed(tmp_path: Path) -> None:
    for step in range(7):
        write_run(tmp_path / f"step-{step}", shards=1)
    with pytest.raises(ConfigError, match=r"7 runs begin with 's': step-0, .*, step-4 and 2 more"):
        find_run("s", tmp_path)


def test_a_run_that_is_resumed_becomes_the_latest(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        os.utime(write_run(tmp_path / name, shards=1).config, (1_000_000 - age, 1_000_000 - age))
        for path in (tmp_path / name).glob("manifest.json"):
            os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert find_run("latest", tmp_path) == tmp_path / "new"
    lock = tmp_path / "old" / "state" / "lock"
    lock.touch()
    assert find_run("latest", tmp_path) == tmp_path / "old"


@pytest.mark.parametrize(
    ("baseline", "meant"),
    [("latest", "step-20"), ("oth", "other"), ("other", "other"), ("auto", "auto"), ("s3://b/o", "s3://b/o")],
)
def test_a_baseline_is_settled_before_the_run_that_may_be_meant_later(runs: Path, baseline: str, meant: str) -> None:
    given = {"baseline": baseline, "runs_dir": str(runs)}
    filled = fill_placeholders(given, datetime.date(2026, 3, 9))
    assert filled == {**given, "baseline": meant if meant == baseline else str(runs / meant)}
    assert has_placeholder(given, "baseline") == (meant != baseline)
    assert not has_placeholder(filled, "baseline")


def test_no_runs_no_latest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no runs"):
        find_run("latest", tmp_path)
