"""report.json keeps its keys, and a damaged one is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import DamagedFile
from tasks.results.run_report import RunReport, publish_report, read_report

FORMER = Path("tests/data/report.json")
"""Written by version 0.1.0, cut down to two arms."""


def test_a_former_report_is_read_and_written_with_the_same_keys_and_values(tmp_path: Path) -> None:
    former = FORMER.read_text()
    (tmp_path / "report.json").write_text(former)
    report = read_report(tmp_path)
    assert report is not None
    # the run is where its report is, not where it was made
    assert report == replace(RunReport.from_json(json.loads(former)), run_dir=str(tmp_path))

    publish_report(report, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == {**json.loads(former), "run_dir": "."}
    assert list(written) == list(json.loads(former))


def test_a_table_of_arms_ends_with_all_of_them() -> None:
    report = RunReport.from_json(json.loads(FORMER.read_text()))
    assert [arm.arm_id for arm in report.all_arms] == [*(arm.arm_id for arm in report.arms), "all"]
    assert report.all_arms[-1].mean_reward == report.mean_reward


def test_no_file_is_no_report(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", FORMER.read_text().replace('"num_rollouts": 128', '"num_rollouts": "many"')]
)
def test_a_damaged_report_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"report\.json is damaged"):
        read_report(tmp_path)
