"""A run of others, at a URL or in a directory, ends in one line, and changes nothing outside its own directory."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.upload import upload_run
from tests.support.harvest_command import harvest_here
from tests.support.s3_servers import Bucket
from tests.support.synthetic import write_run

DEEP = 100_000
SHARD = "rollouts/shard-00000.parquet"


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uploaded")
    upload_run(write_run(folder / "run", shards=1, questions_per_shard=1, arms=1).root, f"{folder}/bucket")
    return folder / "bucket" / "run"


@pytest.fixture
def remote(uploaded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(uploaded, tmp_path / "remote" / "run"))


def succeed(remote: Path, manifest: str) -> None:
    """Make ``manifest`` the one that readers of ``remote`` trust."""
    data = manifest.encode("utf-8", "surrogatepass")
    (remote / "manifest.json").write_bytes(data)
    marker = {"run_id": "run", "manifest_sha256": hashlib.sha256(data).hexdigest()}
    (remote / "_SUCCESS").write_text(json.dumps(marker))


def of(remote: Path, **changes: Any) -> str:
    """The manifest of ``remote`` with other values."""
    return json.dumps({**json.loads((remote / "manifest.json").read_text()), **changes})


def file(remote: Path, **changes: Any) -> str:
    """The manifest of ``remote`` with other values for its first shard of rollouts."""
    files = json.loads((remote / "manifest.json").read_text())["files"]
    return of(remote, files=[{**item, **changes} if item["path"] == SHARD else item for item in files])


def with_path(path: str) -> Callable[[Path], str]:
    return lambda remote: file(remote, path=path)


def with_run_id(run_id: object) -> Callable[[Path], str]:
    return lambda remote: of(remote, run_id=run_id)


MANIFESTS: dict[str, Callable[[Path], str]] = {
    "no JSON": lambda remote: "{",
    "a string": lambda remote: '"x"',
    "nested lists": lambda remote: "[" * DEEP,
    "nested objects": lambda remote: of(remote)[:-1] + ', "more": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}",
    "no files": lambda remote: of(remote, files=[]),
    "files null": lambda remote: of(remote, files=None),
    "bytes infinite": lambda remote: file(remote, bytes=float("inf")),
    "bytes not a number": lambda remote: file(remote, bytes=float("nan")),
    "bytes negative": lambda remote: file(remote, bytes=-1),
    "bytes huge": lambda remote: file(remote, bytes=10**30),
    "bytes of 5,000 digits": lambda remote: file(remote, bytes="@").replace('"@"', "9" * 5000),
    "bytes of another file": lambda remote: file(remote, bytes=1e9),
    "rows infinite": lambda remote: file(remote, rows=float("inf")),
    "rows negative": lambda remote: file(remote, rows=-1),
    "sha256 no hash": lambda remote: file(remote, sha256="\x1b[31m"),
    "sha256 of other bytes": lambda remote: file(remote, sha256="0" * 64),
    "a file twice": lambda remote: of(remote, files=2 * json.loads(of(remote))["files"]),
    **{
        f"path {path[:30]!r}": with_path(path)
        for path in (
            "",
            ".",
            "../outside",
            "/etc/passwd",
            "rollouts/../../outside",
            "..\\outside",
            "rollouts",
            "rollouts/",
            "rollouts//shard-00000.parquet",
            "config.json/x",
            "state/lock",
            "state/download.json",
            "manifest.json",
            "_SUCCESS",
            "upload_receipt.json",
            "\x1b]52;c;aGk=\x07",
            "rollouts/shard-\x00.parquet",
            "rollouts/shard-\ud800.parquet",
            f"rollouts/shard-{'0' * 600}.parquet",
            "/".join(["a" * 200] * 40),
        )
    },
    **{
        f"run_id {str(run_id)[:30]!r}": with_run_id(run_id)
        for run_id in (
            3,
            None,
            ["run"],
            "",
            ".",
            "..",
            "../outside",
            "/outside",
            "a/b",
            "..\\a",
            "a\x00b",
            "\x1b[2J",
            "a\nb",
            "\u202ea",
            "\ud800",
            "a" * 600,
        )
    },
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_of_others_is_refused_in_one_line(
    manifest: Callable[[Path], str], remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed(remote, manifest(remote))
    (tmp_path / "outside").mkdir()
    copies = tmp_path / "copies" / "deep"

    assert harvest_here("download", remote, copies) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("harvest: error: ")
    assert shown.err.count("\n") == 1

    assert harvest_here("verify", remote) == 1
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1
    assert shown.err.count("\n") == 1
    # a download that was refused half-way leaves only files in its own directory
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} <= {"copies", "outside", "remote"}
    assert {*copies.rglob("*.*")} <= {*(copies / "run").rglob("*.*")}
    assert not [*(tmp_path / "outside").iterdir()]
    assert not [*copies.rglob("manifest.json")]


COMMANDS: dict[str, tuple[str, ...]] = {
    "show": ("show", "URL"),
    "arms": ("arms", "URL"),
    "report": ("report", "URL"),
    "export": ("export", "URL", "--to", "jsonl", "--out", "exported"),
    "compare": ("compare", "URL", "URL"),
    "diff": ("diff", "URL", "URL"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", ["bytes infinite", "nested objects", "path '../outside'", "run_id '../outside'"])
def test_every_command_that_takes_a_url_refuses_it(
    command: tuple[str, ...], name: str, remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed(remote, MANIFESTS[name](remote))
    runs = tmp_path / "runs" / "here"
    arguments = [f"file://{remote}" if word == "URL" else word for word in command]
    assert harvest_here(*arguments, "--runs-dir", runs) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": pipe,
    "a folder": folder,
    "an endless device": lambda path: link(path, "/dev/zero"),
    "a dangling link": lambda path: link(path, "/nowhere/at/all"),
    "a link to another file": lambda path: link(path, "/proc/self/environ"),
}


@pytest.mark.parametrize("name", ["_SUCCESS", "manifest.json", SHARD])
@pytest.mark.parametrize("change", ODD_FILES.values(), ids=ODD_FILES)
def test_an_odd_file_at_the_remote_is_not_read(
    name: str, change: Callable[[Path], object], remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(remote / name)
    assert harvest_here("download", remote, tmp_path / "copies") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert harvest_here("verify", remote) == 1
    assert not [*(tmp_path / "copies").rglob(name)]


@pytest.mark.parametrize("name", ["_SUCCESS", "manifest.json"])
def test_a_manifest_that_no_memory_can_hold_is_not_read(
    name: str, remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (remote / name).open("r+b") as sparse:
        sparse.truncate(1 << 40)
    assert harvest_here("download", remote, tmp_path / "copies") == 1
    assert "1,099,511,627,776 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rollouts", "state", "config.json"])
def test_a_download_follows_no_link_out_of_its_directory(
    name: str, remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    (outside / "rollouts").mkdir(parents=True)
    (outside / "state").mkdir()
    (outside / "config.json").write_text("mine")
    (tmp_path / "copies" / "run").mkdir(parents=True)
    (tmp_path / "copies" / "run" / name).symlink_to(outside / name)
    before = snapshot(outside)

    assert harvest_here("download", remote, tmp_path / "copies") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert snapshot(outside) == before


def test_a_download_leaves_another_run_of_the_same_name_alone(
    remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write_run(tmp_path / "runs" / ".baselines" / "run", shards=1, seed=5)
    # all that it names is not there yet
    files = [{**item, "path": "config.json"} for item in json.loads(of(remote))["files"][:1]]
    (mine.root / "config.json").unlink()
    succeed(remote, of(remote, files=files))
    before = snapshot(mine.root)

    assert harvest_here("show", f"file://{remote}", "--runs-dir", tmp_path / "runs") == 2
    assert "is not a download of" in capsys.readouterr().err
    assert snapshot(mine.root) == before


def test_a_bucket_of_others_is_refused_too(
    bucket: Bucket, remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed(remote, file(remote, path="../../outside"))
    for path in remote.rglob("*"):
        if path.is_file():
            key = f"{bucket.url.removeprefix(f's3://{bucket.name}/')}/run/{path.relative_to(remote)}"
            bucket.server.client().put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())
    assert harvest_here("download", f"{bucket.url}/run", tmp_path / "copies") == 1
    assert "is no file that a run publishes" in capsys.readouterr().err
    assert not (tmp_path / "copies").exists()
