"""A run whose groups stop by a rule is killed inside a later wave, and the same command resumes it.

Its waves are in the store before their shard is whole, and are sent once. Once downloaded, no engine is needed.
"""

import signal
from pathlib import Path

import polars as pl
import pytest

from tasks.generation.journal import read_journal
from tasks.storage.download import download_run
from tasks.storage.manifest import SHARD_FOLDERS
from tasks.storage.upload_record import read_upload_record
from tasks.storage.verify import verify_upload
from tests.faults.runs import (
    ROLLOUTS,
    Rows,
    RunProcess,
    assert_nothing_left,
    logs,
    only_run_dir,
    read_rows,
    start_generation,
    start_harvest,
    write_profile,
)
from tests.support.fault_proxy import fault_proxy
from tests.support.s3_servers import Bucket

pytestmark = pytest.mark.slow

SCORER = """
import zlib


def one_in_four(completion):
    return float(zlib.crc32(completion.encode()) % 4 == 0)
"""


def test_a_run_that_is_killed_inside_a_wave_gives_the_rows_of_an_undisturbed_one(
    tmp_path: Path, undisturbed_fake: Rows, bucket: Bucket, prefect_api: str
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    changes = {"max_samples_per_arm": 6, "wave_size": 2, "sample_until": "mixed", "scorer": f"{scorer}:one_in_four"}
    start_generation(tmp_path / "whole" / "runs", profile, changes=changes, folder=tmp_path).finish()
    whole = read_rows(only_run_dir(tmp_path / "whole" / "runs"))
    assert ROLLOUTS < len(whole) < 6 * ROLLOUTS
    # the first sample of each group is that of a run without a rule
    assert {key: row for key, row in whole.items() if key[2] == 0} == undisturbed_fake

    runs_dir = tmp_path / "killed" / "runs"
    runs_dir.parent.mkdir()
    with fault_proxy(bucket.server.endpoint) as proxy:

        def start(**variables: str) -> RunProcess:
            reached = {"PREFECT_API_URL": prefect_api, "AWS_ENDPOINT_URL": proxy.endpoint}
            more = [f"--upload={bucket.url}"]
            return start_harvest(runs_dir, profile, changes=changes, more=more, **reached, **variables)

        run = start(FAKE_HOLD_AFTER=str(ROLLOUTS + 20))
        sent = run.wait_until(lambda: _sent_waves(run), "a wave is sent, and the next one has rollouts in its journal")
        root = only_run_dir(runs_dir)
        url, uploaded = f"{bucket.url}/{root.name}", _uploaded(root)
        assert sent <= uploaded <= _in_store(bucket, root)
        assert "_SUCCESS" not in _in_store(bucket, root)
        run.kill(signal.SIGKILL)

        run = start()
        assert run.wait_for_end() == 0, run.log.read_text()
        assert "were already in its journal" in run.log.read_text()
        puts = proxy.sent()
    assert read_rows(root) == whole
    # what was there before the kill was not sent again
    assert [sum(path.endswith(f"/{root.name}/{name}") for path in puts) for name in uploaded] == [1] * len(uploaded)
    assert verify_upload(url).ok
    copy = download_run(url, tmp_path / "copies")
    assert read_rows(copy) == whole

    # elsewhere it is only scored where scores are lost: no engine is started, and nothing is checked for one
    lost, checked = copy / "scores" / "shard-00000.parquet", (copy / "preflight.json").stat().st_mtime_ns
    lost.unlink()
    again = start_harvest(copy.parent, profile, changes=changes, PREFECT_API_URL=prefect_api)
    assert again.wait_for_end() == 0, again.log.read_text()
    assert read_rows(copy) == whole
    assert pl.read_parquet(lost).equals(pl.read_parquet(root / "scores" / lost.name))
    assert (logs(copy), (copy / "preflight.json").stat().st_mtime_ns) == ([], checked)
    assert_nothing_left(run.seen | again.seen)


def _sent_waves(run: RunProcess) -> set[str]:
    """Return the files of the first waves that the store has, of shards whose next wave has begun."""
    if run.root is None:
        return set()
    journals = run.root.glob("state/journal/shard-*-w*.jsonl")
    begun = {path.name.partition("-w")[0] for path in journals if read_journal(path).finished}
    files = {f"{folder}/{shard}.parquet" for shard in begun for folder in SHARD_FOLDERS}
    return files if files <= _uploaded(run.root) else set()


def _uploaded(root: Path) -> set[str]:
    record = read_upload_record(root)
    return set() if record is None else {*record.files}


def _in_store(bucket: Bucket, root: Path) -> set[str]:
    return {key.partition(f"/{root.name}/")[2] for key in bucket.listing()}
