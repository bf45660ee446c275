"""Upload throughput to a local S3 server, beside plain boto3 transfers: ``python -m tests.bench.bench_upload``."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import polars as pl
from boto3.s3.transfer import TransferConfig, create_transfer_manager

from tasks.files import publish_json
from tasks.storage.published import record_published
from tasks.storage.upload import upload_run
from tests.support.s3_servers import SERVERS, S3Server, running_server

MEGABYTE = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=5.0, help="size of one shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", choices=SERVERS, default="ministack")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-upload-") as scratch:
        directory = Path(scratch)
        with running_server(arguments.server, directory) as server:
            return _compare(directory, server, arguments.shards, int(arguments.megabytes * MEGABYTE), arguments.rounds)


def _compare(directory: Path, server: S3Server, shards: int, size: int, rounds: int) -> int:
    os.environ.update(server.environment)
    run = _write_run(directory / "run", shards, size)
    total = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / MEGABYTE
    print(f"{shards} shards, {total:.0f} MB, {server.endpoint}, {os.cpu_count()} cores")
    ours, plain, sequential = [], [], []
    for _ in range(rounds):
        plain.append(_measure(server, lambda bucket: _boto3(server, bucket, run, threads=10)))
        ours.append(_measure(server, lambda bucket: _ours(bucket, run)))
    sequential.append(_measure(server, lambda bucket: _boto3(server, bucket, run, threads=1)))
    for name, seconds in (("harvest", ours), ("boto3, 10 threads", plain), ("boto3, one by one", sequential)):
        print(
            f"{name:18s} {total / min(seconds):7.1f} MB/s   (seconds per round: {[round(each, 2) for each in seconds]})"
        )
    ratio = min(plain) / min(ours)
    print(f"ratio to boto3, 10 threads: {ratio:.2f} (goal: at least 0.80)")
    return 0 if ratio >= 0.8 else 1


def _write_run(run: Path, shards: int, size: int) -> Path:
    (run / "rollouts").mkdir(parents=True)
    for index in range(shards):
        # only the size matters: a readable file that does not compress
        frame = pl.DataFrame({"noise": [os.urandom(size)]})
        path = run / "rollouts" / f"shard-{index:05d}.parquet"
        frame.write_parquet(path, compression="uncompressed")
        record_published(path)
    publish_json({"run_id": "run", "fingerprint": "bench"}, run / "config.json")
    return run


def _measure(server: S3Server, upload: Callable[[str], None]) -> float:
    bucket = f"bench-{time.monotonic_ns()}"
    server.client().create_bucket(Bucket=bucket)
    started = time.perf_counter()
    upload(bucket)
    elapsed = time.perf_counter() - started
    objects = boto3.resource("s3", endpoint_url=server.endpoint).Bucket(bucket)
    objects.objects.all().delete()
    objects.delete()
    return elapsed


def _ours(bucket: str, run: Path) -> None:
    record = upload_run(run, f"s3://{bucket}/prefix")
    assert record.complete


def _boto3(server: S3Server, bucket: str, run: Path, threads: int) -> None:
    """What ``aws s3 cp --recursive`` does: one transfer manager with its defaults, many files in flight."""
    client = boto3.client("s3", endpoint_url=server.endpoint)
    names = [path.relative_to(run).as_posix() for path in sorted(run.rglob("*")) if path.is_file()]
    if threads == 1:
        for name in names:
            client.upload_file(str(run / name), bucket, f"plain/{name}", Config=TransferConfig())
        return
    with create_transfer_manager(client, TransferConfig(max_concurrency=threads)) as manager:
        for future in [manager.upload(str(run / name), bucket, f"plain/{name}") for name in names]:
            future.result()


if __name__ == "__main__":
    sys.exit(main())
