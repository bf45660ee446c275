<<<<<<< HEAD
"""``harvest upload``, ``verify`` and ``download`` as a user runs them."""
=======
"""``harvest upload``, ``verify`` and ``download`` as a user runs them, against an S3 server."""
>>>>>>> w7

from pathlib import Path

from tasks.manifest import published_files
from tests.harvest_command import harvest
from tests.s3_servers import Bucket
from tests.synthetic import write_run


def test_a_run_goes_up_is_checked_and_comes_back(bucket: Bucket, tmp_path: Path) -> None:
<<<<<<< HEAD
    run = write_run(tmp_path / "runs" / "run")
    url = f"{bucket.url}/run"
    files = published_files(run.root)

    up = harvest("upload", "run", bucket.url, "--runs-dir", tmp_path / "runs", "--json")
    assert up.code == 0, up.stderr
    assert up.report["complete"]
    assert set(files) <= set(up.report["files"])
    good = harvest("verify", url)
    assert (good.code, good.stderr) == (0, "")
    assert good.stdout.startswith(f"{url}: ")

    down = harvest("download", url, tmp_path / "copies", "--json")
    assert down.code == 0, down.stderr
    copy = Path(down.report["run_dir"])
    assert copy == tmp_path / "copies" / "run"
    assert {name: (copy / name).read_bytes() for name in files} == {
        name: (run.root / name).read_bytes() for name in files
    }

    client = bucket.server.client()
    client.put_object(Bucket=bucket.name, Key="team/rollouts/run/scores/shard-00000.parquet", Body=b"other")
    client.delete_object(Bucket=bucket.name, Key="team/rollouts/run/rollouts/shard-00001.parquet")
    bad = harvest("verify", url)
    assert bad.code == 1
    assert [line.split()[0] for line in bad.stdout.splitlines()] == [
        "rollouts/shard-00001.parquet",
        "scores/shard-00000.parquet",
    ]
    assert bad.stderr == f"harvest: 2 problems at {url}\n"
=======
    run = write_run(tmp_path / "runs" / "run", shards=2)
    files = len(published_files(run.root))
    url, stored = f"{bucket.url}/run", "team/rollouts/run"

    unfinished = harvest("verify", url)
    assert (unfinished.code, "has no _SUCCESS" in unfinished.stdout) == (1, True)

    sent = harvest("upload", "run", bucket.url, "--runs-dir", tmp_path / "runs", "--verify", "full")
    assert sent.code == 0, sent.stderr
    assert sent.stdout.startswith(f"{url}: {files} files, {files} sent now")
    again = harvest("upload", run.root, bucket.url, "--json")
    assert (again.report["complete"], again.report["files_sent"]) == (True, 0)

    good = harvest("verify", url)
    assert (good.code, f"{files} files" in good.stdout) == (0, True)
    copied = harvest("download", url, tmp_path / "copies", "--json")
    assert copied.report == {"run_dir": str(tmp_path / "copies" / "run")}
    for name in published_files(run.root):
        assert (tmp_path / "copies" / "run" / name).read_bytes() == (run.root / name).read_bytes()

    scores = f"{stored}/scores/shard-00001.parquet"
    bucket.overwrite_keeping_metadata(scores, bytes(len(bucket.get(scores))))
    bucket.server.client().delete_object(Bucket=bucket.name, Key=f"{stored}/rollouts/shard-00000.parquet")
    bad = harvest("verify", url)
    assert bad.code == 1
    assert [line.split()[0] for line in bad.stdout.splitlines()] == [
        "rollouts/shard-00000.parquet",
        "scores/shard-00001.parquet",
    ]
    assert f"2 problems at {url}" in bad.stderr
    refused = harvest("download", url, tmp_path / "more")
    assert refused.code == 1
    assert "shard-0000" in refused.stderr
>>>>>>> w7
