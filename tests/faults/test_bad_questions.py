"""Questions that cannot be asked, and datasets with ambiguous or wrong rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tests.faults.runs import Rows, only_run_dir, parameters, read_rows, start_generation, write_profile

pytestmark = pytest.mark.slow

EMPTY = {"id": "empty", "question": "   ", "answer": "1"}
OVER_LONG = {"id": "long", "question": "How many apples? " * 400, "answer": "1"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_empty_and_an_over_long_question_become_error_rows_and_the_rest_complete(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    # what they become is decided before an engine has them
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    plan = plan_run(config_from_parameters(parameters(profile)), tmp_path / "unused")
    good = [
        {"id": row["example_id"], "question": row["question"], "answer": row["ground_truth"]}
        for row in plan.questions.iter_rows(named=True)
    ]
    dataset = write(tmp_path / "bad.jsonl", [*good[:3], EMPTY, OVER_LONG, *good[3:]])
    changes = {"dataset": str(dataset), "id_column": "id", "questions": None}
    outcome = start_generation(tmp_path / "runs", profile, changes=changes).finish()
    assert outcome["restarts"] == 0
    assert sum(shard["num_errors"] for shard in outcome["shards"]) == 16
    found = read_rows(only_run_dir(tmp_path / "runs"))
    errors = {key[0]: row[1] for key, row in found.items() if row[1] is not None}
    assert set(errors) == {"empty", "long"}
    assert errors["empty"] == "the question is empty"
    assert "exceeds max_model_len 512" in str(errors["long"])
    # the same ids, and so the same seeds, as in the run without them
    assert {key: row for key, row in found.items() if key[0] not in errors} == undisturbed_fake
