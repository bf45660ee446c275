"""Any process of a run is killed at random moments: the run, or the same command again, completes it."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.storage.run_files import problems_of_run
from tests.faults.runs import (
    ROLLOUTS,
    Rows,
    RunProcess,
    assert_nothing_left,
    command,
    num_saved_rollouts,
    only_run_dir,
    read_rows,
    recorder_of,
    start_harvest,
    states,
    write_profile,
)
from tests.support.fake_engines import open_gate
from tests.support.patience import is_alive, until
from tests.support.prefect_server import NewHome

pytestmark = pytest.mark.slow

Find = Callable[[RunProcess], psutil.Process | None]


def with_words(words: str) -> Find:
    return lambda run: next((each for each in run.descendants() if words in " ".join(command(each))), None)


def recorder(run: RunProcess) -> psutil.Process | None:
    replica = with_words("tasks.generation.replica")(run)
    return recorder_of(replica) if replica else None


WHILE_GENERATING: dict[str, Find] = {
    "server": with_words("flows.server.embedded_server"),
    "replica": with_words("tasks.generation.replica"),
    "recorder": recorder,
    "the process that ends a command": with_words("deadline.py"),
    "flow": lambda run: psutil.Process(run.process.pid),
}
AFTERWARDS: dict[str, Find] = {"comparison": with_words("comparison of "), "summary": with_words("summary of ")}


# the first seed kills each process but the flow, whose kill is in test_wave_kills.py and test_adapter_kills.py
@pytest.mark.parametrize(("kills", "seed"), [(5, 3), pytest.param(100, 0, marks=pytest.mark.soak)])
def test_a_run_whose_processes_are_killed_is_completed(
    kills: int,
    seed: int,
    tmp_path: Path,
    undisturbed_run: Path,
    undisturbed_fake: Rows,
    prefect_api: str,
    new_prefect_home: NewHome,
) -> None:
    """Where the server is killed too, the run has its own."""
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    shared = {"HOME": str(tmp_path), "PREFECT_API_URL": prefect_api}
    # another batch makes another run
    changes = {"question_batch_size": 2}
    more = ["--baseline", str(undisturbed_run), "--upload", str(tmp_path / "bucket")]
    draw, killed, number = random.Random(seed), 0, 0
    while killed < kills:
        number += 1
        runs_dir, told = tmp_path / str(number) / "runs", ""
        home = new_prefect_home(runs_dir / ".prefect")
        first, later = draw.sample(sorted(WHILE_GENERATING), 4), draw.sample(sorted(AFTERWARDS), 1)
        for attempt in range(5):
            own_server = "server" in first
            variables = {"HOME": str(tmp_path)} if own_server else shared
            gate = tmp_path / f"gate-{number}-{attempt}"
            held = {"FAKE_HOLD_AFTER": str(draw.randrange(1, ROLLOUTS // 2)), "FAKE_GATE": str(gate), **variables}
            run = start_harvest(runs_dir, profile, more=more, changes=changes, **held)
            while first and run.process.poll() is None:
                if num_saved_rollouts(run.root) == ROLLOUTS or found_or_ended(run, "replica", WHILE_GENERATING):
                    killed += kill(run, first.pop(), WHILE_GENERATING)
            open_gate(gate)
            if later and not first and run.process.poll() is None:
                killed += kill(run, later.pop(), AFTERWARDS)
            code, told = run.wait_for_end(), run.log.read_text()
            assert_nothing_left(run.seen)
            assert "Traceback" not in told, told
            # a server that was started again gets to know how the run ended
            if own_server and code in (0, 1):
                assert states(home)[-1] == ("FAILED" if code else "COMPLETED")
            if code == 0 and not first and not later:
                break
            assert code in (0, 1, -9), told
            assert code != 1 or told.splitlines()[-1].startswith("harvest: error: "), told
        root = only_run_dir(runs_dir)
        assert read_rows(root) == undisturbed_fake
        assert problems_of_run(root) == []
        assert problems_of_run(tmp_path / "bucket" / root.name) == []


def found_or_ended(run: RunProcess, name: str, processes: dict[str, Find]) -> psutil.Process | None:
    """Wait for the process, and return it; None if the run ends before."""
    ended = object()
    found = run.wait_until(
        lambda: processes[name](run) if run.process.poll() is None else ended, f"{name} is there, or the run has ended"
    )
    return found if isinstance(found, psutil.Process) else None


def kill(run: RunProcess, name: str, processes: dict[str, Find]) -> int:
    """Kill the process as soon as there is one; tell whether there was, as the run may have ended before."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process := found_or_ended(run, name, processes):
            process.kill()
            until(lambda: not is_alive(process), f"{name} has ended")
            return 1
    return 0
