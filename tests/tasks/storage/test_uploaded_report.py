"""The page says what became of the upload, and is the file that was uploaded."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import UploadError
from tasks.files import publish_parquet
from tasks.records import RunPaths
from tasks.results.report import publish_report
from tasks.storage.upload import Uploader, upload_run
from tasks.storage.verify import verify_upload
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.s3_servers import Bucket
from tests.support.synthetic import write_run

STRANGER = "run/rollouts/shard-00009.parquet"


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    run = write_run(tmp_path / "run", arms=2)
    publish_report(run.root)
    return run


def said(page: Path) -> str:
    """The page's verdict on the upload."""
    (words,) = re.findall(r"<span>Upload</span><b>(.*?)</b>.*?</li>", page.read_text(encoding="utf-8"))
    return str(words)


def rescore(run: RunPaths) -> None:
    frame = pl.read_parquet(run.scores(0))
    publish_parquet(frame.with_columns(scorer_version=pl.lit("2")), run.scores(0))


def test_the_page_is_the_one_that_was_uploaded(run: RunPaths, tmp_path: Path) -> None:
    url, stored = f"{tmp_path}/bucket", tmp_path / "bucket" / "run"
    assert said(run.report_html) == "none"
    assert upload_run(run.root, url).files_sent > 1

    page = run.report_html.read_bytes()
    assert (said(run.report_html), f"At {url}/run; _SUCCESS there" in page.decode()) == ("complete", True)
    assert (stored / "report.html").read_bytes() == page
    assert (stored / "manifest.json").read_bytes() == run.manifest.read_bytes()
    assert verify_upload(f"{url}/run").ok

    # neither another upload nor the page made anew finds anything changed
    marked = (stored / "_SUCCESS").stat().st_mtime_ns
    for _ in range(2):
        assert upload_run(run.root, url).files_sent == 0
        assert publish_report(run.root).read_bytes() == page
    assert (stored / "_SUCCESS").stat().st_mtime_ns == marked


def test_a_second_destination_is_the_one_that_is_named(run: RunPaths, tmp_path: Path) -> None:
    for name in ("first", "second"):
        upload_run(run.root, f"{tmp_path}/{name}")
    assert f"At {tmp_path}/second/run;" in run.report_html.read_text()
    assert all(verify_upload(f"{tmp_path}/{name}/run").ok for name in ("first", "second"))


def test_an_upload_that_fails_is_not_finished_until_it_is(run: RunPaths, tmp_path: Path) -> None:
    upload_run(run.root, f"{tmp_path}/bucket")
    stranger = tmp_path / "bucket" / STRANGER
    stranger.write_bytes(b"x")
    rescore(run)
    for _ in range(2):
        with pytest.raises(UploadError, match="not of this run"):
            upload_run(run.root, f"{tmp_path}/bucket")
        assert said(run.report_html) == "not finished"
        assert not (tmp_path / "bucket" / "run" / "_SUCCESS").exists()
    assert "harvest upload completes it" in run.report_html.read_text()

    stranger.unlink()
    upload_run(run.root, f"{tmp_path}/bucket")
    assert said(run.report_html) == "complete"
    assert verify_upload(f"{tmp_path}/bucket/run").ok


def test_a_change_at_the_destination_takes_the_verdict_back(run: RunPaths, tmp_path: Path) -> None:
    upload_run(run.root, f"{tmp_path}/bucket")
    rescore(run)
    Uploader(run.root, f"{tmp_path}/bucket").upload_files(["scores/shard-00000.parquet"])
    assert said(run.report_html) == "not finished"


def test_it_is_not_complete_before_success_is_there(
    run: RunPaths, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(bucket.server.endpoint) as proxy, ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults.append(Fault(kind="slow", method="PUT", path="_SUCCESS", seconds=1))
        finishing = pool.submit(upload_run, run.root, bucket.url)
        while not any(path.endswith("_SUCCESS") for path in proxy.sent("PUT")):
            assert not finishing.done()
            time.sleep(0.01)
        assert said(run.report_html) == "none"
        assert finishing.result(timeout=60).complete
    assert said(run.report_html) == "complete"
    assert bucket.get("team/rollouts/run/report.html") == run.report_html.read_bytes()


def test_a_page_of_another_make_is_uploaded_as_it_is(run: RunPaths, tmp_path: Path) -> None:
    run.report_html.write_bytes(b"<p>\xff</p>")
    assert upload_run(run.root, f"{tmp_path}/bucket").complete
    assert run.report_html.read_bytes() == (tmp_path / "bucket/run/report.html").read_bytes() == b"<p>\xff</p>"
