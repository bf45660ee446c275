"""``harvest upload``, ``verify`` and ``download`` as a user runs them, against an S3 server."""

from pathlib import Path

from tasks.results.report_page import publish_page
from tasks.storage.run_files import published_files
from tests.support.harvest_command import Tell
from tests.support.s3_servers import Bucket
from tests.support.synthetic import write_run


def test_a_run_is_uploaded_verified_and_downloaded(bucket: Bucket, tmp_path: Path, tell: Tell) -> None:
    run = write_run(tmp_path / "runs" / "run", shards=2)
    publish_page(run.root)
    files = len(published_files(run.root))
    url, stored = f"{bucket.url}/run", "team/rollouts/run"

    unfinished = tell("verify", url)
    assert (unfinished.code, "has no _SUCCESS" in unfinished.stdout) == (1, True)

    sent = tell("upload", "run", bucket.url, "--runs-dir", tmp_path / "runs", "--verify", "full")
    assert sent.code == 0, sent.stderr
    assert sent.stdout.startswith(f"{url}: {files} files, {files} sent now")
    again = tell("upload", run.root, bucket.url, "--json")
    assert (again.report["complete"], again.report["files_sent"]) == (True, 0)

    good = tell("verify", url)
    assert (good.code, f"{files} files" in good.stdout) == (0, True)
    copied = tell("download", url, tmp_path / "copies", "--json")
    assert copied.report == {"run_dir": str(tmp_path / "copies" / "run")}
    for name in published_files(run.root):
        assert (tmp_path / "copies" / "run" / name).read_bytes() == (run.root / name).read_bytes()

    scores = f"{stored}/scores/shard-00001.parquet"
    bucket.overwrite_keeping_metadata(scores, bytes(len(bucket.get(scores))))
    bucket.server.client().delete_object(Bucket=bucket.name, Key=f"{stored}/rollouts/shard-00000.parquet")
    bad = tell("verify", url)
    assert bad.code == 1
    assert [line.split()[0] for line in bad.stdout.splitlines()] == [
        "rollouts/shard-00000.parquet",
        "scores/shard-00001.parquet",
    ]
    assert f"2 problems at {url}" in bad.stderr
    refused = tell("download", url, tmp_path / "more")
    assert refused.code == 1
    assert "shard-0000" in refused.stderr
