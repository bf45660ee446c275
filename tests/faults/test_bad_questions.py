"""Questions that cannot be asked, and datasets with ambiguous or wrong rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tests.faults.runs import GenerationProcess, Rows, only_run_dir, parameters, read_rows, write_profile
from tests.support.harvest_command import harvest

pytestmark = pytest.mark.slow

GOOD: list[dict[str, Any]] = [
    {
        "id": f"good-{number}",
        "question": f"Tom has {number} apples and buys 4 more. How many has he?",
        "answer": str(number + 4),
    }
    for number in range(6)
]
EMPTY = {"id": "empty", "question": "   ", "answer": "1"}
OVER_LONG = {"id": "long", "question": "How many apples? " * 400, "answer": "1"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_empty_and_an_over_long_question_become_error_rows_and_the_rest_complete(
    tmp_path: Path, undisturbed: Rows
) -> None:
    profile = write_profile(tmp_path)
    plan = plan_run(config_from_parameters(parameters(profile)), tmp_path / "unused")
    good = [
        {"id": row["example_id"], "question": row["question"], "answer": row["ground_truth"]}
        for row in plan.questions.iter_rows(named=True)
    ]
    dataset = write(tmp_path / "bad.jsonl", [*good[:3], EMPTY, OVER_LONG, *good[3:]])
    changes = {"dataset": str(dataset), "id_column": "id", "questions": None}
    run = GenerationProcess(runs_dir=tmp_path / "runs", request={"parameters": parameters(profile, **changes)})
    outcome = run.finish()
    assert outcome["restarts"] == 0
    assert sum(shard["num_errors"] for shard in outcome["shards"]) == 16
    found = read_rows(only_run_dir(tmp_path / "runs"))
    errors = {key[0]: row[1] for key, row in found.items() if row[1] is not None}
    assert set(errors) == {"empty", "long"}
    assert errors["empty"] == "the question is empty"
    assert "exceeds max_model_len 512" in str(errors["long"])
    # the same ids, and so the same seeds, as in the run without them
    assert {key: row for key, row in found.items() if key[0] not in errors} == undisturbed


@pytest.mark.parametrize(
    ("row", "told"),
    [
        pytest.param({**GOOD[0], "question": "Again?"}, "share the id 'good-0'", id="duplicate id"),
        pytest.param({"id": "number", "question": 5, "answer": "1"}, "is 5 (int); it must be text", id="not text"),
    ],
)
def test_a_dataset_with_wrong_rows_is_refused_before_anything_is_written(
    tmp_path: Path, row: dict[str, Any], told: str
) -> None:
    dataset = write(tmp_path / "data.jsonl", [*GOOD, row])
    outcome = harvest("run", "--dataset", dataset, "--id-column", "id", "--runs-dir", tmp_path / "runs")
    assert outcome.code == 2
    assert told in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
