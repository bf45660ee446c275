"""report.json keeps its keys, and a damaged one is named."""

import json
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

    publish_report(report, tmp_path)
    assert (tmp_path / "report.json").read_text() == former
    assert RunReport.from_json(json.loads(former)) == report


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
