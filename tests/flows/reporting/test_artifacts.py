"""The artifacts of a run in Prefect's UI."""

from pathlib import Path
from typing import Any, cast

from flows.reporting.artifacts import report_equivalence, report_upload, run_markdown
from flows.reporting.reporter import Reporter
from tasks.comparison.equivalence_report import publish_equivalence
from tasks.results.page_data import read_page_data
from tasks.results.run_card import build_hub_card
from tasks.results.run_list import list_runs
from tasks.results.summary import summarize_run
from tasks.storage.run_files import write_manifest
from tasks.storage.upload_record import UploadedFile, UploadRecord, Verified
from tests.support.equivalence import equivalence_report
from tests.support.synthetic import write_run


class Tables:
    """A reporter that keeps what it is given."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.descriptions: dict[str, str] = {}

    def table(self, key: str, rows: list[dict[str, Any]], description: str) -> None:
        self.tables[key] = {row["figure"]: row["value"] for row in rows if "figure" in row}
        self.descriptions[key] = description


def test_an_upload_record_becomes_a_table() -> None:
    proofs: tuple[Verified, ...] = ("etag", "etag", "read")
    record = UploadRecord(
        url="s3://bucket/run",
        run_id="run",
        fingerprint="f",
        complete=True,
        manifest_sha256="abc",
        files={f"{n}": UploadedFile(size=700, sha256="s", etag="e", verified=proof) for n, proof in enumerate(proofs)},
        files_sent=2,
        bytes_sent=1400,
    )
    tables = Tables()
    report_upload(cast(Reporter, tables), record)
    assert tables.tables["harvest-upload"] == {
        "url": "s3://bucket/run",
        "complete": "yes",
        "files": "3",
        "bytes": "2,100",
        "files sent last": "2",
        "bytes sent last": "1,400",
        "verified by": "etag: 2, read: 1",
        "sha256 of the manifest": "abc",
    }


def test_an_incomplete_comparison_is_shown_wherever_a_verdict_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    publish_equivalence(equivalence_report("incomplete"), run.root)
    report = summarize_run(run.root)
    [status] = [item for item in read_page_data(run.root).status if item.name == "Equivalence"]
    assert (status.word, status.tone) == ("incomplete", "bad")
    tables = Tables()
    report_equivalence(cast(Reporter, tables), run)
    assert "Equivalence: **incomplete** against before" in tables.descriptions["harvest-equivalence"]
    assert "- equivalence: **incomplete**: as the test says" in run_markdown(report, None)
    assert "| equivalence to the baseline | incomplete |" in build_hub_card(run.root)
    assert write_manifest(run.root).equivalence == "incomplete"
    assert [listed.verdict for listed in list_runs(tmp_path)] == ["incomplete"]
