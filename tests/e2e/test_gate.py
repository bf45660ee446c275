"""A run whose outputs are not the baseline's: it fails, says why everywhere, and its data is stored under the verdict.

The engine is a fake, which gives the same tokens each time; the baseline's rewards are tampered with.
"""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tasks.store import publish_parquet
from tests.fake_profile import write_fake_profile
from tests.harvest_command import harvest
from tests.prefect_worker import Api

pytestmark = pytest.mark.slow


def test_a_run_that_falls_short_fails_with_its_data_uploaded_under_the_verdict(
    tmp_path: Path, prefect_api: str
) -> None:
    runs_dir, store = tmp_path / "runs", tmp_path / "store"
    asked = ("--profile", write_fake_profile(tmp_path), "--questions", 8, "--max-tokens", 16, "--top-logprobs", 5)
    command = ("run", *asked, "--runs-dir", runs_dir, "--json")
    first = harvest(*command, PREFECT_API_URL=prefect_api)
    assert first.code == 0, first.stderr
    run_dir = Path(first.report["run_dir"])
    baseline = Path(shutil.copytree(run_dir, tmp_path / "baseline"))
    for path in (baseline / "scores").iterdir():
        publish_parquet(pl.read_parquet(path).with_columns(reward=1 - pl.col("reward")), path)

    # against itself it passes; everything is there already, so that nothing is generated
    same = harvest(*command, "--baseline", run_dir, "--require", "bitwise", PREFECT_API_URL=prefect_api)
    assert same.code == 0, same.stderr
    assert same.report["equivalence"]["verdict"] == "bitwise"

    compared = ("--baseline", baseline, "--epsilon", "0.05", "--upload", store)
    short = harvest(*command, *compared, PREFECT_API_URL=prefect_api)
    assert (short.code, short.stdout) == (3, "")
    reason = "the verdict is different, statistical was required. 64 rollouts have the same text and another reward"
    assert reason in short.stderr
    told = json.loads((run_dir / "equivalence.json").read_text())
    assert (told["verdict"], told["required"], told["epsilon"]) == ("different", "statistical", 0.05)
    uploaded = store / run_dir.name
    assert (uploaded / "_SUCCESS").is_file()
    assert json.loads((uploaded / "manifest.json").read_text())["equivalence"] == "different"
    assert len(list((uploaded / "rollouts").iterdir())) == len(list((run_dir / "rollouts").iterdir()))
    page = (run_dir / "report.html").read_bytes()
    assert f"<span>Upload</span><b>complete</b>At {uploaded}; ".encode() in page
    assert (uploaded / "report.html").read_bytes() == page

    api = Api(url=prefect_api)
    tagged = {"flow_runs": {"tags": {"all_": [f"run:{run_dir.name}"]}}, "sort": "START_TIME_DESC"}
    last, *earlier = api.call("POST", "/flow_runs/filter", tagged)
    assert [run["state_type"] for run in earlier] == ["COMPLETED", "COMPLETED"]
    assert last["state_type"] == "FAILED"
    assert reason in last["state"]["message"]
    assert "**different**" in api.artifacts(last["id"])["harvest-equivalence"]["description"]
    [event] = api.events("harvest.equivalence.failed", f"harvest.run.{run_dir.name}")
    assert event["payload"]["verdict"] == "different"
