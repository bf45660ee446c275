"""Engines that are killed, hang, or lose their parent process."""

import signal
from pathlib import Path

import pytest

from tasks.plan.prompts import request_seed
from tests.faults.runs import (
    Rows,
    assert_nothing_left,
    command,
    creation_times,
    logs,
    num_saved_rollouts,
    only_run_dir,
    read_rows,
    start_generation,
    write_profile,
)

pytestmark = pytest.mark.slow


def test_a_killed_and_then_a_stopped_replica_are_replaced_and_keep_their_rollouts(
    tmp_path: Path, undisturbed: Rows
) -> None:
    run = start_generation(tmp_path / "runs", write_profile(tmp_path, stall=15))
    run.wait_for_rollouts(10)
    run.replica().send_signal(signal.SIGKILL)
    root = only_run_dir(tmp_path / "runs")
    run.wait_until(lambda: len(logs(root)) == 2)
    kept = creation_times(root)
    assert len(kept) >= 10
    run.wait_until(lambda: num_saved_rollouts(root) >= len(kept) + 10)
    run.replica().send_signal(signal.SIGSTOP)
    kept |= creation_times(root)
    outcome = run.finish()
    assert read_rows(root) == undisturbed
    assert outcome["restarts"] == 2
    restarts = [event["message"] for event in outcome["events"] if event["kind"] == "restarted"]
    assert "signal 9" in restarts[0]
    assert "no new token for 15 s" in restarts[1]
    assert str(logs(root)[1]) in restarts[1]
    # nothing that was finished was made again
    assert kept.items() <= creation_times(root).items()
    assert_nothing_left(run.seen)


def test_a_replica_whose_recorder_is_killed_is_replaced(tmp_path: Path, undisturbed: Rows) -> None:
    run = start_generation(tmp_path / "runs", write_profile(tmp_path))
    run.wait_for_rollouts(10)
    (recorder,) = run.replica().children()
    recorder.send_signal(signal.SIGKILL)
    outcome = run.finish()
    assert outcome["restarts"] == 1
    (message,) = [event["message"] for event in outcome["events"] if event["kind"] == "restarted"]
    assert "the process that records rollouts ended with exit code -9" in message
    assert read_rows(only_run_dir(tmp_path / "runs")) == undisturbed
    assert_nothing_left(run.seen)


def test_an_engine_whose_step_never_returns_is_replaced(tmp_path: Path, undisturbed_fake: Rows) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:StuckEngine", stall=5)
    run = start_generation(tmp_path / "runs", profile, STUCK_MARKER=str(tmp_path / "stuck"))
    outcome = run.finish()
    assert (tmp_path / "stuck").exists()
    assert outcome["restarts"] == 1
    assert read_rows(only_run_dir(tmp_path / "runs")) == undisturbed_fake
    assert_nothing_left(run.seen)


def test_a_killed_engine_core_is_replaced_and_none_outlives_a_killed_flow(tmp_path: Path, undisturbed: Rows) -> None:
    profile = write_profile(tmp_path)
    # as with several GPUs, the engine core has its own process; vLLM itself would wait for it for ever
    own_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    run = start_generation(tmp_path / "runs", profile, **own_process)
    run.wait_for_rollouts(10)
    root = only_run_dir(tmp_path / "runs")
    kept = creation_times(root)
    run.engine_core().send_signal(signal.SIGKILL)
    run.wait_until(lambda: len(logs(root)) == 2, timeout=60)
    assert "ended by signal 9" in logs(root)[0].read_text()
    kept |= creation_times(root)
    # the second engine core is starting
    run.wait_until(lambda: any("spawn_main" in " ".join(command(process)) for process in run.descendants()))
    run.kill()
    assert_nothing_left(run.seen)

    run = start_generation(tmp_path / "runs", profile)
    assert run.finish()["restarts"] == 0
    assert_nothing_left(run.seen)
    assert read_rows(root) == undisturbed
    # nothing that was finished before an engine or a flow was killed was made again
    assert kept.items() <= creation_times(root).items()


def test_a_request_that_kills_its_engine_is_quarantined_and_the_rest_complete(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    keys = sorted(undisturbed_fake)
    poisoned = [keys[9], keys[70]]
    seeds = ",".join(str(request_seed(0, *key)) for key in poisoned)
    run = start_generation(
        tmp_path / "runs",
        write_profile(tmp_path, backend="tests.support.fake_engines:PoisonedEngine"),
        POISON_SEEDS=seeds,
    )
    outcome = run.finish()
    rows = read_rows(only_run_dir(tmp_path / "runs"))
    assert {key: row for key, row in rows.items() if key not in poisoned} == {
        key: row for key, row in undisturbed_fake.items() if key not in poisoned
    }
    for key in poisoned:
        completion_ids, error = rows[key]
        assert completion_ids == ()
        assert error is not None
        assert "the engine died" in error
    assert sum(shard["num_errors"] for shard in outcome["shards"]) == 2
    assert_nothing_left(run.seen)
