"""Every command that reads a run says the same of it, whatever the directories around it are called."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.commands.cli import main
from tasks.results.summary import summarize_run
from tasks.storage.run_files import write_manifest
from tests.support.fake_profile import write_fake_profile
from tests.support.forked_harvest import harvest_forked
from tests.support.odd_paths import ODD_DIRECTORIES
from tests.support.synthetic import write_run

Call = Callable[..., Any]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process and returns the JSON that it prints."""

    def run(*arguments: str | Path, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert (ended.value.code, printed.err) == (code, ""), arguments
        if arguments[0] == "show":
            return [json.loads(line) for line in printed.out.splitlines()]
        return json.loads(printed.out)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two finished runs of the same rollouts."""
    runs_dir = tmp_path_factory.mktemp("plain")
    for name in ("one", "two"):
        paths = write_run(runs_dir / name, shards=2, questions_per_shard=2, arms=2, samples=2, tokens=4)
        summarize_run(paths.root)
        write_manifest(paths.root)
    return runs_dir


def told_by_all_commands(call: Call, runs_dir: Path, out: Path) -> Any:
    """What every command says of the runs in ``runs_dir``. Those that write do it below ``out``."""
    at = ("--runs-dir", f"{runs_dir}") if str(runs_dir)[0] != "-" else (f"--runs-dir={runs_dir}",)
    told = {
        "show": call("show", "one", *at),
        "show by directory": call("show", runs_dir.absolute() / "one"),
        "arms": call("arms", "one", *at),
        "diff": call("diff", "one", "two", *at),
        "compare": call("compare", "one", "two", *at),
        "export": call("export", "one", *at, "--to", "jsonl", "--out", out / "export"),
        "plan": call("plan", "--after", "one", "--questions", "2", *at),
        "upload": {**call("upload", "one", out / "upload", *at, "--verify", "full"), "files": None},
        "verify": call("verify", out / "upload" / "one"),
        "verify here": call("verify", runs_dir.absolute() / "one"),
        "download": call("download", out / "upload" / "one", out / "download"),
        "score": call("score", "one", *at),
        "report": call("report", "one", *at),
        "runs": [{**run, "updated": None, "bytes": None} for run in call("runs", *at)],
    }
    assert (out / "download" / "one" / "manifest.json").is_file()
    assert len(list((out / "export").iterdir())) == 4
    return without_paths(told, out, runs_dir.absolute(), runs_dir)


def without_paths(value: Any, *paths: Path) -> Any:
    if isinstance(value, dict):
        return {key: without_paths(item, *paths) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item, *paths) for item in value]
    if isinstance(value, str):
        for path in paths:
            value = value.replace(str(path), "PATH")
    return value


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Filled by the first test that needs it: what the commands say where all names are plain."""
    return {}


@pytest.mark.parametrize("name", ODD_DIRECTORIES)
def test_the_names_of_directories_do_not_matter(
    name: str, call: Call, finished: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    if not expected:
        shutil.copytree(finished, tmp_path / "plain")
        expected |= told_by_all_commands(call, tmp_path / "plain", tmp_path / "out")
    odd = tmp_path / "odd"
    shutil.copytree(finished, odd / name)
    # what the name would match if it were a pattern
    for other in ("a1", "sB"):
        shutil.copytree(finished, odd / other)
        shutil.rmtree(odd / other / "two")
    told = told_by_all_commands(call, odd / name, tmp_path / "new" / name)
    for command, said in expected.items():
        assert told[command] == said


def test_relative_and_linked_directories_do_not_matter(
    call: Call, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "-real")
    Path("link").symlink_to("-real", target_is_directory=True)
    rollouts = call("show", "one", "--runs-dir=-real")
    assert len(rollouts) == 16
    for arguments in (("one", "--runs-dir=link"), ("link/one",), ("./-real/one",), ("~/link/one",)):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert call("show", *arguments) == rollouts
    call("upload", "link/one", "to")
    call("download", "to/one", "from")
    assert call("show", "one", "--runs-dir", "from") == rollouts
    assert not [path for path in tmp_path.iterdir() if path.name not in ("-real", "link", "to", "from")]


def test_a_run_is_made_among_odd_names(prefect_api: str, tmp_path: Path) -> None:
    here = tmp_path / 'a[1]?*#%20 it\'s "ünï"'
    here.mkdir()
    write_fake_profile(here)
    (here / "q[1]*.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    (here / "q1.jsonl").write_text('{"question": "another", "answer": "0"}\n')
    command = (
        "run",
        "--profile",
        "fake.toml",
        "--dataset",
        "q[1]*.jsonl",
        "--runs-dir=-r*",
        "--upload",
        "u::p",
        "--json",
    )
    made = harvest_forked(prefect_api, *command, cwd=here)
    assert made.code == 0, made.stderr
    run_id = made.report["run_id"]
    assert made.report["run_dir"] == f"-r*/{run_id}"
    questions = pl.read_parquet(here / "-r*" / run_id / "questions" / "shard-00000.parquet", glob=False)
    assert questions["question"].to_list() == ["1 + 1?"]
    assert (here / "u::p" / run_id / "_SUCCESS").is_file()

    # the whole directory is moved, and everything is found again
    moved = here.rename(tmp_path / "moved {date}")
    again = harvest_forked(prefect_api, *command, "--skip-finished", cwd=moved)
    assert (again.code, again.report) == (0, made.report), again.stderr
