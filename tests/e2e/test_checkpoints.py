"""A pattern as the model: one flow, one engine, a run per checkpoint, and the rewards by step."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.fake_profile import write_fake_profile
from tests.support.forked_harvest import harvest_forked
from tests.support.harvest_command import Outcome, Tell

BACKEND = "tests.support.fake_engines:ReloadingEngine"


@pytest.mark.slow
def test_new_checkpoints_are_collected_and_finished_ones_are_skipped(
    tmp_path: Path, prefect_api: str, tell: Tell
) -> None:
    loads = tmp_path / "loads"
    profile = write_fake_profile(tmp_path, backend=BACKEND)
    models = [write_checkpoint(tmp_path / f"step-{step}", step) for step in (9, 10, 11)]
    whole = tmp_path / "whole"
    os.replace(models[2] / "model.safetensors", whole)  # noqa: PTH105
    (models[2] / "model.safetensors").write_bytes(whole.read_bytes()[:5000])

    def run() -> Outcome:
        loads.write_text("")
        return harvest_forked(
            prefect_api,
            *("run", "--profile", profile, "--model", tmp_path / "step-*", "--questions", 4, "--max-tokens", 8),
            *("--runs-dir", tmp_path / "runs", "--json"),
            FAKE_LOADS=str(loads),
        )

    def loaded() -> list[str]:
        return [line.rpartition(" ")[0] for line in loads.read_text().splitlines()]

    first = run()
    assert first.code == 0, first.stderr
    assert "left for another time, as the model is not complete: step-11: " in first.stderr
    assert [Path(report["model"]).name for report in first.report["runs"]] == ["step-9", "step-10"]
    assert loaded() == ["start step-9", "load step-10"]

    shutil.copy(whole, models[2] / "model.safetensors")
    second = run()
    assert second.code == 0, second.stderr
    assert loaded() == ["start step-11"]
    names = [report["run_id"] for report in second.report["runs"]]
    assert [Path(report["model"]).name for report in second.report["runs"]] == ["step-9", "step-10", "step-11"]

    third = run()
    assert third.code == 0, third.stderr
    assert loaded() == []
    assert third.report == second.report

    (page,) = (tmp_path / "runs").glob("steps-*.html")
    text = page.read_text()
    assert all(name in text for name in names)
    assert all((tmp_path / "runs" / name / "report.html").is_file() for name in names)
    page.unlink()
    again = tell("report", *names, "--runs-dir", tmp_path / "runs", "--json")
    assert again.report["report"] == str(page)
    assert page.read_text() == text
