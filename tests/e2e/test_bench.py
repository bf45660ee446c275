"""``harvest bench`` as a user runs it, with the real engine."""

import json
from pathlib import Path

import psutil
import pytest

from tests.support.harvest_command import harvest


@pytest.mark.slow
def test_the_pipeline_is_measured_beside_the_loop_that_it_replaces(tmp_path: Path, prefect_api: str) -> None:
    asked = ("--questions", 4, "--max-tokens", 16, "--repeats", 1, "--only", "baseline,pipeline")
    # each engine core has a process of its own, as with several GPUs
    variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "BENCH_OF": str(tmp_path), "PREFECT_API_URL": prefect_api}
    outcome = harvest("bench", *asked, "--runs-dir", tmp_path / "runs", **variables)
    assert outcome.code == 0, outcome.stderr
    for heading in ("sequences/s", "tokens/s", "pipeline / it", "equivalence", "Projected time"):
        assert heading in outcome.stdout
    (published,) = tmp_path.glob("runs/bench-*/bench.json")
    result = json.loads(published.read_text())
    measured = {item["contestant"]: item for item in result["measurements"]}
    assert set(measured) == {"baseline", "pipeline"}
    assert [item["rollouts"] for item in measured.values()] == [32, 32]
    assert measured["baseline"]["tokens"] == measured["pipeline"]["tokens"] > 0
    assert all(item["seconds"] > 0 for item in measured.values())
    # float32: the same tokens, whatever the batch
    assert result["equivalence"]["pipeline"]["verdict"] == "bitwise"
    assert result["equivalence"]["pipeline"]["identical"] == 32
    assert all(Path(item["run_dir"]).is_dir() for item in measured.values())
    (log,) = tmp_path.glob("runs/bench-*/*/*/logs/reference.log")
    assert "EngineCore pid=" in log.read_text()
    # an engine core that lives on would hold its GPU's memory, and the next engine would not start
    assert not [process for process in psutil.process_iter() if _environment(process).get("BENCH_OF") == str(tmp_path)]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
