"""A finished run of the demo model that tests of several modules read. A test that changes it copies it before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.harvest_command import Outcome, harvest

PARAMETERS: dict[str, Any] = {
    "questions": 8, "shard_size": 2, "question_batch_size": 4, "max_tokens": 32, "top_logprobs": 5
}  # fmt: skip
"""Four shards. The pipeline has four questions in flight, and the baseline one per call."""
OPTIONS = [part for name, value in PARAMETERS.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """``harvest run`` and, generated for it, its baseline."""

    runs_dir: Path
    outcome: Outcome

    @property
    def root(self) -> Path:
        return Path(self.outcome.report["run_dir"])

    @property
    def baseline(self) -> Path:
        (baseline,) = (self.runs_dir / ".baselines").glob("auto-*")
        return baseline


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> DemoRun:
    runs_dir = tmp_path_factory.mktemp("demo-run")
    compared = ("--baseline", "auto", "--require", "bitwise", "--json")
    outcome = harvest("run", *OPTIONS, *compared, "--runs-dir", runs_dir, PREFECT_API_URL=prefect_api)
    return DemoRun(runs_dir=runs_dir, outcome=outcome)
