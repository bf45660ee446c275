"""A collection with adapters is killed in the middle, and resumed.

A collection that is finished, again: tests/e2e/test_checkpoints.py.
"""

from pathlib import Path

import polars as pl
import pytest

from tests.faults.runs import ROLLOUTS, assert_nothing_left, num_saved_rollouts, read_rows, start_harvest, write_profile
from tests.support.lora_adapters import write_adapter

pytestmark = pytest.mark.slow


def saved(runs_dir: Path) -> dict[str, int]:
    """Return how many rollouts of each run a restart keeps."""
    return {path.parent.name: num_saved_rollouts(path.parent) for path in runs_dir.glob("*/config.json")}


def test_a_kill_loses_no_rollout_of_any_policy(tmp_path: Path, prefect_api: str) -> None:
    profile, runs_dir = write_profile(tmp_path, backend="tests.support.fake_engines:AdapterEngine"), tmp_path / "runs"
    adapters = [f"--adapter={write_adapter(tmp_path / name, seed=len(name))}" for name in ("one", "other")]
    run = start_harvest(runs_dir, profile, more=adapters, PREFECT_API_URL=prefect_api, FAKE_HOLD_AFTER="150")
    run.wait_until(lambda: sum(saved(runs_dir).values()) >= 150, "150 rollouts are saved")
    run.kill()
    assert_nothing_left(run.seen)
    kept = saved(runs_dir)
    # they share the engine from the beginning
    assert len(kept) == 3
    assert all(kept.values())
    result = start_harvest(runs_dir, profile, more=adapters, PREFECT_API_URL=prefect_api).finish()
    reports = result["runs"]
    assert [report["model"] for report in reports] == ["demo", "demo+one", "demo+other"]
    rows = []
    for report in reports:
        (session,) = report["generation"]["sessions"][-1:]
        assert session["rollouts"] == ROLLOUTS - kept[report["run_id"]]
        assert session["shared_with"] == [other["run_id"] for other in reports if other is not report]
        root = runs_dir / report["run_id"]
        rows.append(read_rows(root))
        (names,) = pl.read_parquet(root / "rollouts" / "*.parquet").select("model", "model_revision").unique().rows()
        assert names[0] == report["model"]
        assert ("+" in names[1]) == ("+" in names[0])
    assert rows[0] != rows[1] != rows[2]
