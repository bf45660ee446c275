"""``harvest tune`` as a user runs it; the engine is a fake."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.server.interruption import INTERRUPTED
from profiles.load import load_profile
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment, harvest_here
from tests.support.patience import read_to_end, until


@pytest.mark.slow
def test_a_candidate_is_cut_off_and_an_interrupted_search_keeps_what_it_measured(
    tmp_path: Path, prefect_api: str
) -> None:
    profile, log = write_fake_profile(tmp_path), tmp_path / "log"
    asked = ["tune", "--profile", str(profile), "--questions", "40", "--max-tokens", "16", "--minutes", "0.01"]
    asked += ["--runs-dir", str(tmp_path / "runs"), "--save", str(tmp_path / "mine.toml")]
    with log.open("wb") as output:
        command = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", *asked],
            # each engine stands still before its run is over, so only the time can end it
            env=environment(PREFECT_API_URL=prefect_api, FAKE_HOLD_AFTER="100", COLUMNS="200"),
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            process_group=0,
        )
    try:
        until(lambda: "candidate 2:" in log.read_text(), "the second candidate", alive=[command], logs=[log])
        # a terminal sends Ctrl-C to the whole process group
        os.killpg(command.pid, signal.SIGINT)
        stdout, _ = read_to_end(command, "the end of harvest tune")
    finally:
        command.kill()
        command.wait()
    assert command.returncode == INTERRUPTED, log.read_text()
    rows = [line for line in stdout.splitlines() if "as given" in line]
    assert len(rows) == 1
    assert "best" in rows[0]
    assert "failed" not in stdout
    assert "Give more --questions or --minutes" in log.read_text()
    tuned = load_profile(str(tmp_path / "mine.toml"))
    assert tuned == load_profile(str(profile)).model_copy(
        update={"name": "fake-tuned", "description": "CPU, no engine; tuned for demo"}
    )
    assert len(list(tmp_path.glob("runs/tune-fake-*/tune.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--minutes", "0"), "--minutes is 0; it must be above 0"),
        (("--minutes", "nan"), "--minutes is nan"),
        (("--save", "mine"), "ends in .toml"),
        (("--profile", "nothing"), "unknown profile"),
        (("--max-tokens", "5000"), "--max-tokens is 5000"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save = () if "--save" in arguments else ("--save", tmp_path / "mine.toml")
    assert harvest_here("tune", *arguments, "--runs-dir", tmp_path / "runs", *save) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("")
    assert harvest_here("tune", "--save", file) == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == ""
