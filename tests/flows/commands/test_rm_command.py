"""``harvest rm`` removes what it was told, after it asked, and never a run that a process works on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.locks import run_lock, upload_lock
from tests.support.harvest_command import Tell, environment
from tests.support.patience import await_exit, until
from tests.support.synthetic import write_run
from tests.support.terminal import Terminal


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        write_run(tmp_path / name, shards=1)
    return tmp_path


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [("y\n", 0, {"three", "two"}), ("n\n", 2, {"one", "three", "two"}), ("", 2, {"one", "three", "two"})],
)
def test_it_asks(runs: Path, answer: str, code: int, left: set[str]) -> None:
    command = [sys.executable, "-m", "flows.commands.cli", "rm", "on", "--runs-dir", str(runs)]
    told = subprocess.run(command, input=answer, env=environment(), capture_output=True, text=True, check=False)
    assert told.returncode == code, told.stderr
    assert f"remove {runs / 'one'}, which is interrupted (no process works on it; it has " in told.stderr
    assert {path.name for path in runs.iterdir()} == left


@pytest.mark.parametrize(
    ("keys", "code", "last"), [("\x03", 130, "interrupted"), ("\x04", 2, "where nobody can answer")]
)
def test_ctrl_c_and_ctrl_d_end_its_question(runs: Path, keys: str, code: int, last: str) -> None:
    command = [sys.executable, "-m", "flows.commands.cli", "rm", "one", "--runs-dir", str(runs)]
    with Terminal(columns=1_000) as terminal:
        process = terminal.start(command, environment())
        until(lambda: "[y/N]: " in terminal.unfinished, "its question", alive=[process])
        terminal.press(keys)
        assert await_exit(process, "its end") == code
    assert terminal.lines[-1].startswith("harvest: "), "the question has a line of its own"
    assert terminal.lines[-1].endswith(last)
    assert (runs / "one").exists()


def test_several_go_at_once(runs: Path, tell: Tell) -> None:
    told = tell("rm", "one", runs / "two", "--yes", "--json", "--runs-dir", runs)
    assert told.report == {"removed": [str(runs / "one"), str(runs / "two")]}
    assert [path.name for path in runs.iterdir()] == ["three"]


def test_what_a_process_works_on_stays_and_so_do_the_others(runs: Path, tell: Tell) -> None:
    state = runs / "two" / "state"
    for held in (run_lock(state / "lock"), upload_lock(state, exclusive=False, wait=lambda seconds: None)):
        with held:
            told = tell("rm", "one", "two", "--yes", "--runs-dir", runs)
        assert (told.code, told.stdout) == (2, "")
        assert "in use by" in told.stderr or "being uploaded" in told.stderr
        assert {path.name for path in runs.iterdir()} == {"one", "two", "three"}


def test_an_unknown_run_is_refused(runs: Path, tell: Tell) -> None:
    told = tell("rm", "one", "tow", "--yes", "--runs-dir", runs)
    assert told.code == 2
    assert "Did you mean two?" in told.stderr
    assert (runs / "one").exists()


def test_a_link_to_a_run_is_refused(runs: Path, tell: Tell) -> None:
    (runs / "kept").mkdir()
    (runs / "kept" / "link").symlink_to(runs / "one")
    for name in ("link", "li", runs / "kept" / "link"):
        told = tell("rm", name, "--yes", "--runs-dir", runs / "kept")
        assert (told.code, told.stdout) == (2, "")
        assert f"is a link to {runs / 'one'}" in told.stderr
    assert (runs / "one" / "config.json").exists()


def test_a_directory_that_no_run_made_stays(runs: Path, tell: Tell) -> None:
    (runs / "model").mkdir()
    (runs / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    told = tell("rm", "one", runs / "model", "--yes", "--runs-dir", runs)
    assert (told.code, told.stdout) == (2, "")
    assert "has a config.json that is not a run's" in told.stderr
    assert {"one", "model"} <= {path.name for path in runs.iterdir()}
