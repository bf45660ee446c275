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


def test_a_replica_is_replaced_and_keeps_its_rollouts_when_any_of_its_processes_ends_or_stands_still(
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
    # the next step never returns
    open_gate(gate, until=40)
    run.wait_until(lambda: num_starts(run) == 4, "a replica starts in place of the one whose core stands still")
    run.wait_for_rollouts(len(kept) + 20)
    run.replica().send_signal(signal.SIGKILL)
    run.wait_until(lambda: num_starts(run) == 5, "a replica starts in place of the one that was killed")
    kept |= creation_times(root)
    run.wait_for_rollouts(len(kept) + 5)
    run.replica().send_signal(signal.SIGSTOP)
    kept |= creation_times(root)
    # the last replica makes all that is left
    open_gate(gate)
    outcome = run.finish()
    assert read_rows(root) == undisturbed_fake
    assert outcome["restarts"] == 5
    restarts = [event["message"] for event in outcome["events"] if event["kind"] == "restarted"]
    causes = (
        "signal 9",
        "the process that records rollouts ended with exit code -9",
        "no new token for",
        "signal 9",
        "no new token for",
    )
    for message, log, cause in zip(restarts, logs(root)[:-1], causes, strict=True):
        assert cause in message
        assert str(log) in message
    # nothing that was finished was made again
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
