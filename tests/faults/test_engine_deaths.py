"""Engines that are killed, hang, or lose their parent process."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import (
    Rows,
    RunProcess,
    assert_nothing_left,
    command,
    creation_times,
    logs,
    only_run_dir,
    read_rows,
    recorder_of,
    start_generation,
    write_profile,
)
from tests.support.fake_engines import open_gate

pytestmark = pytest.mark.slow

STALL = 10
"""Seconds without a token after which an engine has stalled; the product multiplies them on a slow machine. An engine
that a test holds reports progress, so only a single step must not take as long."""


def num_starts(run: RunProcess) -> int:
    return len(logs(run.root)) if run.root else 0


def test_a_replica_that_is_stuck_killed_or_stopped_is_replaced_and_keeps_its_rollouts(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:StuckEngine", stall=STALL)
    stuck, gate = tmp_path / "stuck", tmp_path / "gate"
    run = start_generation(
        tmp_path / "runs", profile, FAKE_HOLD_AFTER="30", FAKE_GATE=str(gate), STUCK_MARKER=str(stuck)
    )
    # a step of the first replica never returns
    run.wait_until(lambda: num_starts(run) == 2, "another replica starts")
    assert stuck.exists()
    root = only_run_dir(tmp_path / "runs")
    kept = creation_times(root)
    run.wait_for_rollouts(len(kept) + 30)
    run.replica().send_signal(signal.SIGKILL)
    run.wait_until(lambda: num_starts(run) == 3, "a third replica starts")
    kept |= creation_times(root)
    run.wait_for_rollouts(len(kept) + 30)
    run.replica().send_signal(signal.SIGSTOP)
    kept |= creation_times(root)
    # the fourth replica makes all that is left
    open_gate(gate)
    outcome = run.finish()
    assert read_rows(root) == undisturbed_fake
    assert outcome["restarts"] == 3
    restarts = [event["message"] for event in outcome["events"] if event["kind"] == "restarted"]
    for message, log, cause in zip(
        restarts, logs(root), ("no new token for", "signal 9", "no new token for"), strict=False
    ):
        assert cause in message
        assert str(log) in message
    # nothing that was finished was made again
    assert kept.items() <= creation_times(root).items()
    assert_nothing_left(run.seen)


def test_a_replica_whose_recorder_or_engine_core_ends_or_stands_still_is_replaced(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.waiting_engine:WaitingEngine", stall=STALL)
    ready, gate = tmp_path / "ready", tmp_path / "gate"
    run = start_generation(
        tmp_path / "runs", profile, FAKE_HOLD_AFTER="10", FAKE_GATE=str(gate), FAKE_CORE_GATE=str(ready)
    )
    # the replica would wait for its core for ever
    run.wait_until(lambda: starting_core(run), "the first engine core is starting").kill()
    run.wait_until(lambda: num_starts(run) == 2, "a replica starts in place of the one whose engine core was killed")
    ready.touch()
    run.wait_for_rollouts(10)
    root = only_run_dir(tmp_path / "runs")
    assert "engine process EngineCore ended by signal 9" in logs(root)[0].read_text()
    run.wait_until(lambda: recorder_of(run.replica()), "the recorder").send_signal(signal.SIGKILL)
    # the replica notices when it has more to record
    open_gate(gate, until=20)
    run.wait_until(lambda: num_starts(run) == 3, "a replica starts in place of the one whose recorder was killed")
    kept = creation_times(root)
    run.wait_for_rollouts(len(kept) + 20)
    run.engine_core().send_signal(signal.SIGSTOP)
    kept |= creation_times(root)
    open_gate(gate)
    outcome = run.finish()
    assert read_rows(root) == undisturbed_fake
    assert outcome["restarts"] == 3
    _, of_recorder, of_core = [event["message"] for event in outcome["events"] if event["kind"] == "restarted"]
    assert "the process that records rollouts ended with exit code -9" in of_recorder
    assert "no new token for" in of_core
    assert kept.items() <= creation_times(root).items()
    assert_nothing_left(run.seen)


# a spawned core: tests/e2e/test_equivalence_engine.py; one that stands still, or ends while it starts: the test above;
# the end of either with its parents: test_flow_kills.py and tests/tasks/test_process_tree.py
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.soak)])
def test_vllms_core_in_a_process_of_its_own_is_watched(tmp_path: Path, method: str) -> None:
    profile = write_profile(tmp_path, backend="tests.support.faulty_engines:HeldEngine", stall=STALL, core_process=True)
    gate = tmp_path / "gate"
    run = start_generation(tmp_path / "runs", profile, FAKE_HOLD_AFTER="10", FAKE_GATE=str(gate), FAKE_METHOD=method)
    run.wait_for_rollouts(10)
    root = only_run_dir(tmp_path / "runs")
    # Ctrl-C, which a terminal sends to every process, is the flow's alone
    for process in run.replica().children(recursive=True):
        process.send_signal(signal.SIGINT)
    open_gate(gate, until=20)
    run.wait_for_rollouts(20)
    assert num_starts(run) == 1
    kept = creation_times(root)
    # vLLM itself would wait for it for ever
    run.engine_core().send_signal(signal.SIGKILL)
    run.wait_until(lambda: num_starts(run) == 2, "a replica starts in place of the one whose engine core was killed")
    assert "ended by signal 9" in logs(root)[0].read_text()
    run.kill()
    assert_nothing_left(run.seen)
    # the next run of the same command begins with them
    assert len(kept) >= 20
    assert kept.items() <= creation_times(root).items()


def starting_core(run: RunProcess) -> psutil.Process | None:
    return next((process for process in run.descendants() if "EngineCore" in " ".join(command(process))), None)
