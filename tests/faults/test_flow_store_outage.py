"""An outage of the upload's destination does not disturb generation, and costs no data if it lasts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.commands.cli import main
from flows.shards.shard_uploads import MAX_CONCURRENT_UPLOADS
from tasks.files import read_json
from tasks.results.run_state import run_state
from tasks.storage.run_files import missing_shards
from tasks.storage.verify import verify_upload
from tests.faults.runs import RunProcess, only_run_dir
from tests.support.fake_engines import open_gate
from tests.support.fake_profile import write_fake_profile
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.s3_servers import Bucket

pytestmark = pytest.mark.slow

SHARDS = MAX_CONCURRENT_UPLOADS + 2
"""More than go up at once."""


@dataclass(kw_only=True)
class Run:
    """``harvest run`` whose engine makes no rollout before ``generate``, and the store that it uploads to."""

    process: RunProcess
    gate: Path
    proxy: FaultProxy

    @property
    def root(self) -> Path:
        return only_run_dir(self.process.runs_dir)

    def generate(self, shards: int) -> None:
        """Let the engine go on until this many shards, each of one rollout, are there."""
        open_gate(self.gate, until=shards)

    def told(self) -> str:
        return self.process.log.read_text()

    def start_outage(self) -> None:
        self.proxy.faults += [
            Fault(kind="500", method=method, times=10**6) for method in ("GET", "HEAD", "PUT", "POST")
        ]

    def end_outage(self) -> None:
        self.proxy.faults.clear()


@pytest.fixture
def run(bucket: Bucket, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run that has checked its destination and waits to generate."""
    gate = tmp_path / "gate"
    with fault_proxy(bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        arms = tmp_path / "arms.toml"
        arms.write_text('[[arms]]\nid = "direct"\nsystem_prompt = "Reply with the answer only"\n')
        profile = write_fake_profile(tmp_path)
        asked = ("--profile", profile, "--arms", arms, "--questions", SHARDS, "--shard-size", 1, "--max-tokens", 8)
        command = ("run", *asked, "--runs-dir", tmp_path / "runs", "--upload", bucket.url)
        process = RunProcess(
            runs_dir=tmp_path / "runs",
            module_and_arguments=["flows.commands.cli", *map(str, command)],
            variables={
                "PREFECT_API_URL": prefect_api,
                "HARVEST_OUTAGE_SECONDS": "1",
                "FAKE_HOLD_AFTER": "0",
                "FAKE_GATE": str(gate),
            },
        )
        process.wait_until(lambda: list(tmp_path.glob("runs/*/preflight.json")), "preflight is done")
        yield Run(process=process, gate=gate, proxy=proxy)


def left_to_the_end(told: str) -> set[int]:
    """The shards that the warnings name."""
    lines = [line for line in told.splitlines() if " up at the end of the run, " in line]
    assert all(line.startswith("warning: shard") for line in lines)
    assert sum("injected InternalError" in line for line in lines) <= 1, "the same outage is explained once"
    return {int(word.strip(",")) for line in lines for word in line.partition(" up at")[0].split() if word[0].isdigit()}


def test_shards_not_uploaded_during_an_outage_are_uploaded_at_the_end(run: Run, bucket: Bucket) -> None:
    run.start_outage()
    run.generate(SHARDS - 1)
    run.process.wait_until(lambda: len(left_to_the_end(run.told())) == SHARDS - 1, "all shards so far are left out")
    assert len({Path(name).stem for name in missing_shards(run.root)}) == 1, "generation waited for the store"
    assert not any("shard-" in key for key in bucket.listing())
    run.end_outage()
    run.generate(SHARDS)
    assert run.process.wait_for_end() == 0, run.told()
    assert verify_upload(f"{bucket.url}/{run.root.name}").ok


def test_a_run_without_its_destination_is_complete_and_can_be_uploaded_later(run: Run, bucket: Bucket) -> None:
    run.start_outage()
    run.generate(SHARDS)
    assert run.process.wait_for_end() == 1, run.told()
    last = run.told().splitlines()[-1]
    assert last.startswith("harvest: error: listing failed at s3://")
    assert "did not answer properly in any attempt: check the endpoint, then run the same command" in last
    assert len(run.told().splitlines()) < SHARDS + 5, "nothing is told per attempt"
    assert "Traceback" not in run.told()
    assert missing_shards(run.root) == []
    assert str(run_state(run.root)).startswith("finished (then it failed: listing failed at s3://")
    assert read_json(run.root / "report.json")["num_rollouts"] == SHARDS
    assert not any("shard-" in key for key in bucket.listing())

    run.end_outage()
    with pytest.raises(SystemExit) as ended:
        main(["upload", str(run.root), bucket.url])
    assert ended.value.code == 0
    assert verify_upload(f"{bucket.url}/{run.root.name}").ok
