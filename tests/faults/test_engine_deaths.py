"""Engines that are killed, hang, or lose their parent process."""

import signal
from pathlib import Path

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
    start_generation,
    start_harvest,
    write_profile,
)
from tests.support.fake_engines import open_gate
from tests.support.patience import scaled

pytestmark = pytest.mark.slow


def num_starts(run: RunProcess) -> int:
    return len(logs(run.root)) if run.root else 0


def test_a_replica_that_is_stuck_killed_or_stopped_is_replaced_and_keeps_its_rollouts(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:StuckEngine", stall=scaled(5))
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


def test_a_replica_whose_recorder_is_killed_is_replaced(tmp_path: Path, undisturbed_fake: Rows) -> None:
    profile, gate = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine"), tmp_path / "gate"
    run = start_generation(tmp_path / "runs", profile, FAKE_HOLD_AFTER="10", FAKE_GATE=str(gate))
    run.wait_for_rollouts(10)
    (recorder,) = run.replica().children()
    recorder.send_signal(signal.SIGKILL)
    # the replica notices when it has more to record
    open_gate(gate)
    outcome = run.finish()
    assert outcome["restarts"] == 1
    (message,) = [event["message"] for event in outcome["events"] if event["kind"] == "restarted"]
    assert "the process that records rollouts ended with exit code -9" in message
    assert read_rows(only_run_dir(tmp_path / "runs")) == undisturbed_fake
    assert_nothing_left(run.seen)


def test_a_killed_engine_core_is_replaced_and_none_outlives_a_killed_harvest_run(
    tmp_path: Path, prefect_api: str
) -> None:
    run = start_harvest(
        tmp_path / "runs",
        write_profile(tmp_path, backend="tests.support.faulty_engines:HeldEngine"),
        PREFECT_API_URL=prefect_api,
        FAKE_HOLD_AFTER="10",
        # as with several GPUs, the engine core has its own process; vLLM itself would wait for it for ever
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )
    run.wait_for_rollouts(10)
    root = only_run_dir(tmp_path / "runs")
    kept = creation_times(root)
    run.engine_core().send_signal(signal.SIGKILL)
    run.wait_until(lambda: num_starts(run) == 2, "another replica starts")
    assert "ended by signal 9" in logs(root)[0].read_text()
    kept |= creation_times(root)
    run.wait_until(
        lambda: any("spawn_main" in " ".join(command(process)) for process in run.descendants()),
        "the second engine core is starting",
    )
    run.kill()
    assert_nothing_left(run.seen)
    # the next run of the same command begins with them
    assert len(kept) >= 10
    assert kept.items() <= creation_times(root).items()
