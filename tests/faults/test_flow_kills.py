"""The flow's process is killed or interrupted at chosen and random moments, and the same command resumes the run."""

import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.results.run_state import run_state
from tests.faults.runs import (
    ROLLOUTS,
    Rows,
    RunProcess,
    assert_nothing_left,
    command,
    num_saved_rollouts,
    only_run_dir,
    read_rows,
    start_generation,
    start_harvest,
    write_profile,
)
from tests.support.patience import await_exit, pause, until
from tests.support.tensorboard_events import scalars
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow


def files(pattern: str) -> Callable[[RunProcess], int]:
    return lambda run: len(list(run.runs_dir.glob(f"*/{pattern}")))


PROGRESS: dict[str, Callable[[RunProcess], int]] = {
    "configurations": files("config.json"),
    "shards of questions": files("questions/*.parquet"),
    "logs of replicas": files("logs/replica-*.log"),
    "records of replicas": files("state/replica-*.pid.json"),
    "journals": files("state/journal/*.jsonl"),
    "shards of rollouts": files("rollouts/*.parquet"),
    "records of finished shards": files("state/rollouts/*.json"),
}
"""What a run makes more of, one after the other. A kill comes when there is one more."""


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.soak)])
def test_a_flow_that_is_killed_again_and_again_gives_the_rows_of_an_undisturbed_run(
    kills: int, tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    moments = random.Random(0)
    runs_dir, kept = tmp_path / "0" / "runs", 0
    runs_dir.parent.mkdir()
    for number in range(1, kills + 1):
        # the engine stands still early enough that the kill comes before the end of the run
        made = moments.randrange(1, ROLLOUTS // 2)
        run = start_generation(runs_dir, profile, FAKE_HOLD_AFTER=str(made))
        name = moments.choice([*PROGRESS, "rollouts", "rollouts", "rollouts"])
        if kills > 4 and moments.random() < 0.3:
            pause(moments.uniform(0, 3))
        else:
            wait_for_one_more(run, name, enough=kept + made)
        run.kill()
        assert_nothing_left(run.seen)
        if run.root is not None:
            assert num_saved_rollouts(run.root) >= kept
            kept = num_saved_rollouts(run.root)
        if kept > ROLLOUTS // 2:
            assert_resumes(runs_dir, profile, kept, undisturbed_fake)
            runs_dir, kept = tmp_path / str(number) / "runs", 0
            runs_dir.parent.mkdir()
    assert_resumes(runs_dir, profile, kept, undisturbed_fake)


def wait_for_one_more(run: RunProcess, name: str, enough: int) -> None:
    """Wait for an event of ``PROGRESS`` or else until ``enough`` rollouts are saved, after which there is none."""
    count = PROGRESS.get(name, lambda run: 0)
    before = count(run)
    run.wait_until(
        lambda: count(run) > before or num_saved_rollouts(run.root) >= enough,
        f"more than {before} {name}, or {enough} rollouts",
    )


def assert_resumes(runs_dir: Path, profile: Path, kept: int, undisturbed: Rows) -> None:
    outcome = start_generation(runs_dir, profile).finish()
    assert read_rows(only_run_dir(runs_dir)) == undisturbed
    assert outcome["rollouts_finished"] + kept == ROLLOUTS


def test_a_leftover_replica_is_ended_by_the_next_run_and_no_other_process_is(tmp_path: Path) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:CoredEngine")
    run = start_generation(tmp_path / "runs", profile, FAKE_HOLD_AFTER="1")
    run.wait_for_rollouts(1)
    # the recorder, and what stands for an engine core
    assert len([child for child in run.replica().children() if "resource_tracker" not in " ".join(command(child))]) == 2
    (record,) = (only_run_dir(tmp_path / "runs") / "state").glob("replica-*.pid.json")
    text = record.read_text()
    run.kill()
    assert_nothing_left(run.seen)
    # a replica that missed its death signal, and an unrelated process that has the pid of an ended one
    leftover = subprocess.Popen(["sleep", "infinity"])
    stranger = subprocess.Popen(["sleep", "infinity"])
    try:
        started = Path(f"/proc/{leftover.pid}/stat").read_text().rpartition(")")[2].split()[19]
        processes = f'[{{"pid": {leftover.pid}, "started": {started}}}, {{"pid": {stranger.pid}, "started": 1}}]'
        record.write_text(text[: text.index('"processes":')] + f'"processes": {processes}}}')
        outcome = start_generation(tmp_path / "runs", profile).finish()
        assert outcome["leftovers"] == [leftover.pid]
        assert await_exit(leftover) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (leftover, stranger):
            process.kill()
            process.wait()


def test_an_interrupted_harvest_run_leaves_a_clean_terminal_and_resumes(
    tmp_path: Path, undisturbed_fake: Rows, prefect_api: str
) -> None:
    profile, runs_dir = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine"), tmp_path / "runs"
    logged = ["--log-to=tensorboard"]
    with Terminal(columns=40) as terminal:
        run = start_harvest(
            runs_dir, profile, more=logged, terminal=terminal, PREFECT_API_URL=prefect_api, FAKE_HOLD_AFTER="80"
        )
        run.wait_for_rollouts(80)
        # with those of the shards that are scored
        wait_to_see(run, terminal, " generating ", "/128 rollouts", "/4 shards", "truncated ", "concise ")
        assert_ends_when_interrupted(run, terminal, lambda: run.process.send_signal(signal.SIGTERM))
    kept = num_saved_rollouts(run.root)
    with Terminal(columns=100) as terminal:
        run = start_harvest(runs_dir, profile, terminal=terminal, PREFECT_API_URL=prefect_api, FAKE_NEVER_READY="1")
        run.wait_until(lambda: runs_a_replica(run), "the engine starts")
        # before anything is generated
        wait_to_see(run, terminal, " loading engine 0:", " shards", "concise ")
        assert_ends_when_interrupted(run, terminal, lambda: terminal.press("\x03"))
    run = start_harvest(runs_dir, profile, more=logged, PREFECT_API_URL=prefect_api)
    report = run.finish()
    assert "\x1b" not in run.log.read_text()
    found = list(scalars(only_run_dir(runs_dir) / "tensorboard"))
    assert ("final/rollouts", ROLLOUTS, ROLLOUTS) in found
    steps = [step for tag, step, _ in found if tag == "progress/rollouts"]
    assert steps == sorted(steps), "a resumed run goes back"
    assert steps[-1] == ROLLOUTS
    assert str(run_state(only_run_dir(runs_dir))) == "finished"
    assert report["generation"]["sessions"][-1]["rollouts"] == ROLLOUTS - kept
    assert read_rows(only_run_dir(runs_dir)) == undisturbed_fake


def wait_to_see(run: RunProcess, terminal: Terminal, *words: str) -> None:
    def are_seen() -> bool:
        text = "\n".join(terminal.lines)
        return all(word in text for word in words)

    run.wait_until(are_seen, f"the terminal shows {words}")


def runs_a_replica(run: RunProcess) -> bool:
    return any("tasks.generation.replica" in command(process) for process in run.descendants())


def assert_ends_when_interrupted(run: RunProcess, terminal: Terminal, interrupt: Callable[[], None]) -> None:
    run.descendants()
    interrupt()
    code = run.wait_for_end()
    until(lambda: terminal.lines[-1:] == ["harvest: interrupted; the same command resumes"], "the last words")
    assert code == 130, terminal.lines
    assert not any("Traceback" in line or "━" in line or "─" in line for line in terminal.lines), terminal.lines
    state = run_state(only_run_dir(run.runs_dir))
    # a machine so slow that the process ends without a record leaves a lock that nobody holds
    assert state.name == "interrupted", state
    assert str(state.reason).startswith(("Ctrl-C, SIGTERM, ", "killed: ")), state
    assert_nothing_left(run.seen)
