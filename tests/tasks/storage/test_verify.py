"""Verify and download refuse a destination that does not hold a complete run."""

import json
from pathlib import Path

import pytest

from tasks.errors import ConfigError, UploadError
from tasks.files import publish_text
from tasks.storage.download import download_run
from tasks.storage.upload import RunUploader, upload_run
from tasks.storage.verify import verify_upload
from tests.support.synthetic import write_run


def test_an_unfinished_upload_is_not_trusted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2)
    url = f"{tmp_path}/bucket"
    RunUploader(run.root, url).upload_files(["rollouts/shard-00000.parquet"])

    report = verify_upload(f"{url}/run")
    assert not report.ok
    (problem,) = report.problems
    assert problem.startswith(f"{url}/run has no _SUCCESS. The upload is not complete; harvest download --unfinished")
    with pytest.raises(UploadError, match="has no _SUCCESS"):
        download_run(f"{url}/run", tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


def test_the_parent_url_of_runs_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        upload_run(write_run(tmp_path / name, shards=1).root, f"{tmp_path}/bucket")
    assert verify_upload(f"{tmp_path}/bucket").problems == (
        f"{tmp_path}/bucket has no _SUCCESS. It holds the runs a, b: add one to the URL",
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("manifest.json", "{}", "has another hash than _SUCCESS says"),
        ("_SUCCESS", "", "damaged"),
        ("_SUCCESS", "[]", "damaged"),
        ("_SUCCESS", '{"run_id": "run", "manifest_sha256": "0"}', "has another hash than _SUCCESS says"),
    ],
)
def test_a_damaged_manifest_or_success_is_not_trusted(name: str, text: str, expected: str, tmp_path: Path) -> None:
    upload_run(write_run(tmp_path / "run", shards=1).root, f"{tmp_path}/bucket")
    publish_text(text, tmp_path / "bucket" / "run" / name)
    (problem,) = verify_upload(f"{tmp_path}/bucket/run").problems
    assert expected in problem


def test_success_without_a_manifest_is_not_trusted(tmp_path: Path) -> None:
    upload_run(write_run(tmp_path / "run", shards=1).root, f"{tmp_path}/bucket")
    (tmp_path / "bucket" / "run" / "manifest.json").unlink()
    (problem,) = verify_upload(f"{tmp_path}/bucket/run").problems
    assert "_SUCCESS but no manifest.json" in problem


def test_a_download_never_overwrites_another_run(tmp_path: Path) -> None:
    theirs = write_run(tmp_path / "theirs" / "run", shards=1, seed=1)
    mine = write_run(tmp_path / "mine" / "run", shards=1, seed=2)
    upload_run(theirs.root, f"{tmp_path}/bucket")
    before = {path: path.read_bytes() for path in mine.root.rglob("*") if path.is_file()}

    with pytest.raises(ConfigError, match="is not a download of"):
        download_run(f"{tmp_path}/bucket/run", tmp_path / "mine")
    assert {path: path.read_bytes() for path in mine.root.rglob("*") if path.is_file()} == before


def test_a_second_download_updates_the_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=2)
    upload_run(run.root, f"{tmp_path}/bucket")
    copy = download_run(f"{tmp_path}/bucket/run", tmp_path / "copies")
    publish_text('{"verdict": "statistical"}', run.equivalence)
    publish_text("<p>new</p>", run.report_html)
    upload_run(run.root, f"{tmp_path}/bucket")

    assert download_run(f"{tmp_path}/bucket/run", tmp_path / "copies") == copy
    assert (copy / "report.html").read_text() == "<p>new</p>"
    assert json.loads((copy / "manifest.json").read_text())["equivalence"] == "statistical"
