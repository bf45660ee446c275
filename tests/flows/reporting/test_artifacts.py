"""The artifacts of a run in Prefect's UI."""

from typing import Any, cast

from flows.reporting.artifacts import report_upload
from flows.reporting.reporter import Reporter
from tasks.storage.upload_record import UploadedFile, UploadRecord, Verified


class Tables:
    """A reporter that keeps what it is given."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {}

    def table(self, key: str, rows: list[dict[str, Any]], description: str) -> None:
        self.tables[key] = {row["figure"]: row["value"] for row in rows}


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
