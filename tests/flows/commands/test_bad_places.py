"""A place that cannot be used is refused in one line with exit code 2, before a server starts."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.commands.cli import main
from tasks.results.summary import summarize_run
from tasks.storage.run_files import write_manifest
from tasks.storage.upload import upload_run
from tasks.units import GIB
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment
from tests.support.synthetic import write_run

Refused = Callable[..., str]

PLACES = [
    "/dev/null",
    "/dev/null/x",
    "/proc",
    "/proc/x",
    "FILE",
    "FILE/x",
    "LOOP",
    "DANGLING",
    "",
    "e\udcff",
    "n" * 300,
]
"""No directory can be made there, or no file in it, also not by root."""


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in this process, which must be refused, and returns the line that it prints."""

    def run(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed.err
        assert (printed.out, printed.err.count("\n")) == ("", 1), printed.err
        return printed.err

    return run


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    paths = write_run(root / "one", shards=1, questions_per_shard=2, arms=2, samples=2, tokens=2)
    summarize_run(paths.root)
    write_manifest(paths.root)
    return root


@pytest.fixture(scope="module")
def uploaded(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uploaded")
    upload_run(runs_dir / "one", str(root))
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    Path("LOOP").symlink_to("LOOP")
    Path("DANGLING").symlink_to("/proc/nowhere")
    write_fake_profile(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
def test_a_run_is_not_begun_where_it_cannot_be_kept(place: str, refused: Refused, here: Path) -> None:
    command = ("run", "--profile", "fake.toml", "--questions", "2")
    for option in ("--runs-dir", "--upload"):
        line = refused(*command, f"{option}={place}")
        assert "Traceback" not in line
        if place in ("/dev/null", "FILE/x"):
            assert place in line
    refused("bench", "--profile", "fake.toml", f"--runs-dir={place}")
    refused(*command, f"--log-to=tensorboard:{place}")
    if place:
        refused(*command, f"--upload=file://{place if place.startswith('/') else here / place}")
    assert {path.name for path in here.iterdir()} <= {"FILE", "LOOP", "DANGLING", "fake.toml", "runs"}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_written_where_no_directory_can_be(
    place: str, refused: Refused, here: Path, runs_dir: Path, uploaded: Path
) -> None:
    at = ("--runs-dir", runs_dir)
    refused("upload", "one", place, *at)
    refused("export", "one", *at, "--to", "jsonl", "--out", place)
    refused("download", uploaded / "one", place)


@pytest.mark.parametrize("place", ["", "e\udcff", "n" * 300, "FILE", "/dev/null", "absent"])
@pytest.mark.parametrize("command", ["show", "arms", "report", "score", "runs"])
def test_a_directory_that_holds_no_runs_is_refused(command: str, place: str, refused: Refused, here: Path) -> None:
    refused(command, *(() if command == "runs" else ("one",)), f"--runs-dir={place}")
    if command != "runs":
        refused(command, place)


def test_a_working_directory_that_was_deleted_is_named(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in (("show", "one"), ("runs",), ("run", "--questions", "2")):
        assert "working directory was deleted" in refused(*command)


@pytest.mark.parametrize(
    ("command", "limit", "value", "told"),
    [
        ("show one", resource.RLIMIT_AS, GIB, "address space is 1.0 GiB (ulimit -v); at least 2.0 GiB"),
        ("run", resource.RLIMIT_AS, 4 * GIB, "address space is 4.0 GiB (ulimit -v); at least 8.0 GiB"),
        ("run", resource.RLIMIT_NOFILE, 64, "open files is 64 (ulimit -n); at least 1024"),
    ],
)
def test_a_limit_of_the_shell_is_named(command: str, limit: int, value: int, told: str, tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "flows.commands.cli", *command.split()],
        cwd=tmp_path,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr.count("\n")) == (2, "", 1), outcome.stderr
    assert told in outcome.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["run", "--profile", "fake.toml", "--upload"], ["upload", "one"]])
def test_what_can_only_be_read_is_no_destination(
    command: list[str], refused: Refused, here: Path, runs_dir: Path
) -> None:
    line = refused(*command, "http://127.0.0.1:9/x", "--runs-dir", runs_dir if command[0] == "upload" else "runs")
    assert "can be read, and nothing can be written to it. Use a directory, s3://BUCKET/PREFIX" in line
