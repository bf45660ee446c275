"""Memory that runs out at the start and while generating, with causes that a smaller batch cures and others."""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tasks.generation.rung_state import RungState
from tests.faults.runs import (
    GIB,
    Rows,
    assert_nothing_left,
    logs,
    only_run_dir,
    read_rows,
    start_generation,
    write_profile,
)
from tests.support.harvest_command import ROOT

pytestmark = pytest.mark.slow


def rungs(root: Path) -> dict[int, set[int]]:
    """Question batch sizes by rung, as the rollouts record them."""
    frame = pl.concat([pl.read_parquet(path) for path in (root / "rollouts").glob("*.parquet")])
    return {
        rung: set(part["question_batch_size"].to_list())
        for (rung,), part in frame.partition_by("oom_rung", as_dict=True).items()
    }


def offer_hungry_logits(folder: Path) -> dict[str, str]:
    """Return variables under which vLLM's engine core runs out of memory once, in its first step that samples."""
    package = folder / "hungry-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: hungry\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[vllm.logits_processors]\nhungry = tests.support.hungry_logits:HungryLogits\n"
    )
    return {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), "HUNGRY_MARKER": str(folder / "asked")}


def test_host_memory_that_runs_out_in_vllm_is_known_at_its_start_and_in_a_step(tmp_path: Path) -> None:
    """It runs out for the KV cache of an engine core in its own process, and then in a step of the next one.

    For a run that goes on with the smaller batch: the next test. For the replica's own process:
    tests/tasks/generation/test_engine_outputs.py, with vLLM's words.
    """
    profile = write_profile(tmp_path, backend="tests.support.faulty_engines:OneGpuEngine", kv=8, core_process=True)
    run = start_generation(
        tmp_path / "runs",
        profile,
        # so that the second failure is at the last rung
        changes={"questions": 4, "max_tokens": 16, "question_batch_size": 2},
        limits={"RLIMIT_AS": 10 * GIB},
        **offer_hungry_logits(tmp_path / "packages"),
    )
    outcome = run.finish()
    root = only_run_dir(tmp_path / "runs")
    (at_start,) = RungState(root / "state" / "oom_ladder.json").changes
    assert (at_start.kind, at_start.phase, at_start.to_rung) == ("host", "start", 1)
    assert "can't allocate memory" in at_start.reason
    assert (at_start.settings["question_batch_size"], at_start.settings["kv_cache_space_gib"]) == (1, 4)
    assert "(EngineCore pid=" in logs(root)[0].read_text()
    assert outcome["error"] == "OutOfMemory"
    assert "at every rung of the ladder (question batches 2, 1, the last one eager)" in outcome["message"]
    assert "can't allocate memory" in outcome["message"]
    # it was in a step
    assert (tmp_path / "packages" / "asked").exists()
    assert_nothing_left(run.seen)


def test_host_memory_that_runs_out_while_generating_halves_the_batch_once(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.hungry_engine:HungryEngine")
    # memory for two questions of eight arms and the next one, which is admitted as they end, but not for four
    run = start_generation(tmp_path / "runs", profile, MEMORY_LIMIT="28")
    outcome = run.finish()
    root = only_run_dir(tmp_path / "runs")
    assert read_rows(root) == undisturbed_fake
    (told,) = [event for event in outcome["events"] if event["kind"] == "oom"]
    assert "out of memory (host, run)" in told["message"]
    assert "Unable to allocate" in told["message"]
    assert "Question batch is now 2" in told["message"]
    assert (outcome["restarts"], outcome["rung"]) == (1, 1)
    assert rungs(root) == {1: {2}}


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group whose memory holds this flow but not an engine beside it."""
    name, limit = f"harvest-test-{os.getpid()}", str(GIB)
    for root, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(limit)
            yield group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("needs the right to make a control group with a memory limit")


def test_a_replica_that_the_kernel_kills_for_memory_is_reported_as_out_of_memory(
    tmp_path: Path, small_memory: Path
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:GreedyEngine")
    run = start_generation(tmp_path / "runs", profile, changes={"question_batch_size": 2}, cgroup=small_memory)
    outcome = run.finish()
    assert run.process.returncode == 1
    assert outcome["error"] == "OutOfMemory"
    assert "memory ran out at every rung of the ladder (question batches 2, 1" in outcome["message"]
    assert "the kernel killed the engine: host memory is exhausted (cgroup oom_kill)" in outcome["message"]
    assert_nothing_left(run.seen)
