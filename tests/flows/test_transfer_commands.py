"""``harvest upload``, ``verify`` and ``download`` as a user runs them."""

from pathlib import Path

from tasks.manifest import published_files
from tests.harvest_command import harvest
from tests.s3_servers import Bucket
from tests.synthetic import write_run


def test_a_run_goes_up_is_checked_and_comes_back(bucket: Bucket, tmp_path: Path) -> None:
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
