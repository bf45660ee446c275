"""``harvest bench`` as a user runs it; the engine is a fake."""

import json
from pathlib import Path

import pytest

from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import harvest


@pytest.mark.slow
def test_the_pipeline_is_measured_beside_a_loop_and_the_limit(tmp_path: Path, prefect_api: str) -> None:
    asked = ("--profile", write_fake_profile(tmp_path), "--baseline-profile", tmp_path / "fake.toml")
    asked += ("--questions", 4, "--max-tokens", 16, "--repeats", 1, "--only", "baseline,limit,features,pipeline")
    outcome = harvest("bench", *asked, "--runs-dir", tmp_path / "runs", PREFECT_API_URL=prefect_api)
    assert outcome.code == 0, outcome.stderr
    for heading in ("whole process s", "sequences/s", "tokens/s", "pipeline / it", "equivalence", "Projected time"):
        assert heading in outcome.stdout
    (published,) = tmp_path.glob("runs/bench-*/bench.json")
    result = json.loads(published.read_text())
    measured = {item["contestant"]: item for item in result["measurements"]}
    assert list(measured) == ["baseline", "limit", "features", "pipeline"]
    assert {item["rollouts"] for item in measured.values()} == {32}
    # the fake engine heeds the seeds even of the limit, whose requests have none for vLLM
    assert {item["tokens"] for item in measured.values()} == {measured["pipeline"]["tokens"]}
    assert measured["pipeline"]["tokens"] > 0
    assert all(item["process_seconds"] > item["seconds"] > 0 for item in measured.values())
    assert list(result["ratios"]) == ["pipeline/baseline", "pipeline/limit", "pipeline/features"]
    assert (result["failures"], result["same_lengths"]) == ([], False)
    assert list(result["equivalence"]) == ["pipeline"]
    # float32: the same tokens, whatever the batch
    assert result["equivalence"]["pipeline"]["verdict"] == "bitwise"
    assert result["equivalence"]["pipeline"]["identical"] == 32
    assert all(Path(item["run_dir"]).is_dir() for item in measured.values())
