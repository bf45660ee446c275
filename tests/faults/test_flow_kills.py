"""The flow's process is killed at random moments, and the same command resumes the run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import (
    Rows,
    assert_nothing_left,
    num_saved_rollouts,
    only_run_dir,
    parameters,
    read_rows,
    start_generation,
    write_profile,
)
from tests.support.harvest_command import environment, harvest

END_SECONDS = 30.0
"""A command ends within 10 s of an interrupt on an idle node. The tests run on busy ones."""
pytestmark = pytest.mark.slow


def test_a_flow_that_is_killed_ten_times_gives_the_rows_of_an_undisturbed_run(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    moments = random.Random(0)
    kept = 0
    for number in range(10):
        # so slow that ten killed sessions do not finish the run
        run = start_generation(tmp_path / "runs", profile, FAKE_STEP_SECONDS="0.35")
        if number % 2:
            run.wait_for_rollouts(min(kept + moments.randint(1, 12), len(undisturbed_fake) - 1))
        else:
            time.sleep(moments.uniform(0.3, 3.0))
        run.kill()
        assert_nothing_left(run.seen)
        if run.root is not None:
            assert num_saved_rollouts(run.root) >= kept
            kept = num_saved_rollouts(run.root)
    assert kept < len(undisturbed_fake)
    outcome = start_generation(tmp_path / "runs", profile).finish()
    assert read_rows(only_run_dir(tmp_path / "runs")) == undisturbed_fake
    assert outcome["rollouts_finished"] + kept == len(undisturbed_fake)


def test_a_leftover_replica_is_ended_by_the_next_run_and_no_other_process_is(tmp_path: Path) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    run = start_generation(tmp_path / "runs", profile, FAKE_STEP_SECONDS="0.25")
    run.wait_for_rollouts(1)
    (record,) = (only_run_dir(tmp_path / "runs") / "state").glob("replica-*.pid.json")
    text = record.read_text()
    run.kill()
    assert_nothing_left(run.seen)
    # a replica that missed its death signal, and an unrelated process that has the pid of an ended one
    leftover = subprocess.Popen(["sleep", "300"])
    stranger = subprocess.Popen(["sleep", "300"])
    try:
        started = Path(f"/proc/{leftover.pid}/stat").read_text().rpartition(")")[2].split()[19]
        processes = f'[{{"pid": {leftover.pid}, "started": {started}}}, {{"pid": {stranger.pid}, "started": 1}}]'
        record.write_text(text[: text.index('"processes":')] + f'"processes": {processes}}}')
        outcome = start_generation(tmp_path / "runs", profile).finish()
        assert outcome["leftovers"] == [leftover.pid]
        assert leftover.wait(10) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        leftover.kill()
        stranger.kill()


def start_harvest(runs_dir: Path, profile: Path, **variables: str) -> "subprocess.Popen[str]":
    options = [f"--{name.replace('_', '-')}={value}" for name, value in parameters(profile).items()]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.commands.cli", "run", "--runs-dir", str(runs_dir), *options],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def tree(process: "subprocess.Popen[str]") -> dict[int, float]:
    children = psutil.Process(process.pid).children(recursive=True)
    return {child.pid: child.create_time() for child in children}


def wait_for(runs_dir: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not any(num_saved_rollouts(path.parent) >= count for path in runs_dir.glob("*/config.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_again(runs_dir: Path, profile: Path, **variables: str) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in parameters(profile).items()]
    outcome = harvest("run", "--runs-dir", runs_dir, "--json", *options, **variables)
    assert outcome.code == 0, outcome.stderr


def test_harvest_run_with_the_real_engine_resumes_after_a_kill(
    tmp_path: Path, undisturbed: Rows, prefect_api: str
) -> None:
    profile, runs_dir = write_profile(tmp_path), tmp_path / "runs"
    process = start_harvest(runs_dir, profile, PREFECT_API_URL=prefect_api)
    wait_for(runs_dir, 40, process)
    seen = tree(process)
    process.kill()
    process.communicate()
    assert_nothing_left(seen)
    run_again(runs_dir, profile, PREFECT_API_URL=prefect_api)
    assert read_rows(only_run_dir(runs_dir)) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("rollouts", [0, 20], ids=["while the engine starts", "while it generates"])
def test_an_interrupted_harvest_run_ends_within_30_seconds_with_one_line_and_resumes(
    tmp_path: Path, undisturbed_fake: Rows, prefect_api: str, number: int, rollouts: int
) -> None:
    profile, runs_dir = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine"), tmp_path / "runs"
    process = start_harvest(
        runs_dir,
        profile,
        PREFECT_API_URL=prefect_api,
        FAKE_STEP_SECONDS="0.4" if rollouts else "0",
        FAKE_START_SECONDS="1",
    )
    wait_for(runs_dir, rollouts, process)
    seen = tree(process)
    interrupted_at = time.monotonic()
    if number == signal.SIGINT:
        # a terminal sends Ctrl-C to the whole process group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - interrupted_at < END_SECONDS
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "harvest: interrupted; the same command resumes"
    assert "Traceback" not in stderr
    assert_nothing_left(seen, within=END_SECONDS - (time.monotonic() - interrupted_at))
    if rollouts:
        run_again(runs_dir, profile, PREFECT_API_URL=prefect_api)
        assert read_rows(only_run_dir(runs_dir)) == undisturbed_fake
