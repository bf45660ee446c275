"""``harvest view``: what it refuses, and how it ends."""

import http.client
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.viewing.run_server import RunServer
from tests.support.harvest_command import Tell, environment
from tests.support.patience import HTTP_SECONDS, read_to_end, scaled, until
from tests.support.synthetic import write_run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not a directory. Give a directory of runs"),
        (["--port", "70000"], "--port is 70000; it must be between 0 and 65535"),
        (["--port", "-1"], "--port is -1; it must be between 0 and 65535"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tell: Tell, tmp_path: Path) -> None:
    told = tell("view", *(arguments if arguments[0] == "nowhere" else [tmp_path, *arguments]))
    assert (told.code, told.stderr.count("\n")) == (2, 1)
    assert words in told.stderr


def test_a_port_in_use(tell: Tell, tmp_path: Path) -> None:
    with RunServer(tmp_path, 0) as other:
        told = tell("view", tmp_path, "--port", str(other.server_port))
    assert told.code == 2
    assert (
        f"--port {other.server_port} of 127.0.0.1 cannot be used: Address already in use. Give another" in told.stderr
    )


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_trace(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "run", arms=2)
    log = tmp_path / "view.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", "view", str(run.root), "--port", "0"],
            env=environment(PYTHONUNBUFFERED="1"),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    found = until(
        lambda: re.search(r"http://127\.0\.0\.1:(\d+)(/run/run) shows", log.read_text()), "its address", alive=[process]
    )
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=scaled(HTTP_SECONDS))
    connection.request("GET", found[2])
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGINT)
    _, error = read_to_end(process, "the end of harvest view")
    assert (process.returncode, error) == (0, "")
