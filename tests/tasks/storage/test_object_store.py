"""Listings, on an S3 server."""

from concurrent.futures import ThreadPoolExecutor

from tasks.storage.destination import open_store
from tests.support.s3_servers import Bucket


def test_a_listing_of_several_pages(bucket: Bucket) -> None:
    client = bucket.server.client()
    keys = {f"run/rollouts/shard-{index:05d}.parquet" for index in range(1010)}

    def put(key: str) -> None:
        client.put_object(Bucket=bucket.name, Key=key, Body=b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, keys))
    put("run-2/neighbour")
    found = open_store(f"s3://{bucket.name}/run").listing()
    assert {f"run/{key}" for key in found} == keys
    assert {stored.size for stored in found.values()} == {1}
