"""A collection with a time limit, Prefect's ``timeout_seconds``."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from tasks.results.run_state import run_state
from tests.faults.runs import assert_nothing_left, num_saved_rollouts, only_run_dir, read_rows
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment
from tests.support.patience import scaled
from tests.support.prefect_worker import Api

pytestmark = pytest.mark.slow

QUESTIONS, SHARD_SIZE = 16, 4


def test_a_run_that_exceeds_its_time_limit_is_timed_out_ends_its_replicas_and_resumes(
    tmp_path: Path, prefect_api: str
) -> None:
    asked: dict[str, Any] = {
        "profile": str(write_fake_profile(tmp_path)),
        "questions": QUESTIONS,
        "shard_size": SHARD_SIZE,
        "max_tokens": 16,
        "runs_dir": str(tmp_path / "runs"),
    }
    with (
        (tmp_path / "flow.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.timed_flow", json.dumps(asked)],
            env=environment(PREFECT_API_URL=prefect_api),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        # a busy machine may need longer to begin to generate
        for doubled in range(4):
            timed_out = _run(process.stdin, process.stdout, limit=scaled(7) * 2**doubled, hold_after=20)
            # the process lives on, so nothing but the flow's own end can end them
            seen = {child.pid: child.create_time() for child in psutil.Process(process.pid).children(recursive=True)}
            assert_nothing_left(seen)
            assert (timed_out["type"], timed_out["name"]) == ("FAILED", "TimedOut"), timed_out
            assert run_state(only_run_dir(tmp_path / "runs")).name in ("failed", "interrupted")
            if made_before := num_saved_rollouts(only_run_dir(tmp_path / "runs")):
                break
        assert 0 < made_before < QUESTIONS * 8
        flow_run = Api(url=prefect_api).flow_run(timed_out["id"])
        assert (flow_run["state_type"], flow_run["state_name"]) == ("FAILED", "TimedOut")

        done = _run(process.stdin, process.stdout, limit=None, hold_after=math.inf)
        process.stdin.close()
    assert done["type"] == "COMPLETED", done
    root = only_run_dir(tmp_path / "runs")
    assert len(read_rows(root)) == QUESTIONS * 8
    sessions = json.loads((root / "state" / "generation.json").read_text())
    assert sessions[-1]["rollouts"] == QUESTIONS * 8 - made_before


def _run(orders: IO[str], told: IO[str], **order: Any) -> dict[str, Any]:
    """Have one run made; the state in which it has ended."""
    orders.write(json.dumps(order) + "\n")
    orders.flush()
    state: dict[str, Any] = json.loads(told.readline())
    return state
