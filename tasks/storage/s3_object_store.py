"""Stores objects in an S3 bucket, with digests in the metadata, checksums in the requests, and multipart uploads.

No multipart upload stays open. All bytes of an upload leave through one thread, the event loop of s3fs, so any other
work of that thread limits the speed of an upload.
"""

import asyncio
import base64
import contextlib
import io
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import HarvestError, UploadError
from tasks.storage.digests import Digest, digest_bytes
from tasks.storage.filesystems import TransferSettings
from tasks.storage.multipart_uploads import MultipartRecords
from tasks.storage.object_store import BODIES_IN_MEMORY, ObjectStore, StoredObject

SECONDS_AFTER_STOP = 5.0
"""How long a request after ``stop`` may take, so that a process can end although a server hangs."""


class RequestBody(io.BytesIO):
    """The bytes of a request body."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data

    def getbuffer(self) -> memoryview:
        # aiohttp calls this for the size; the buffer of BytesIO is writable, so making it copies all bytes
        return memoryview(self._data)


class S3ObjectStore(ObjectStore):
    """Objects below an ``s3://`` URL, through s3fs's client."""

    def __init__(self, url: str, transfer: TransferSettings, filesystem: Any, root: str, state: Path | None) -> None:
        super().__init__(url, transfer, filesystem, root)
        self._bucket, prefix, _ = filesystem.split_path(self._root)
        self._prefix = f"{prefix}/" if prefix else ""
        self._tls = filesystem.s3.meta.endpoint_url.startswith("https")
        self._native_checksums = filesystem.s3.meta.config.request_checksum_calculation == "when_supported"
        self._records = MultipartRecords(state) if state else None
        self._in_flight: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def head(self, key: str) -> StoredObject | None:
        try:
            answer = self._head(key)
        except FileNotFoundError:
            return None
        encryption = answer.get("ServerSideEncryption", "")
        return StoredObject(
            size=int(answer["ContentLength"]),
            etag=answer["ETag"].strip('"'),
            etag_is_md5="kms" not in encryption and "SSECustomerAlgorithm" not in answer,
            sha256=answer.get("Metadata", {}).get("sha256"),
        )

    def listing(self) -> dict[str, StoredObject]:
        found: dict[str, StoredObject] = {}
        more: dict[str, Any] = {}
        while True:
            page = self._request("listing", "list_objects_v2", Prefix=self._prefix, **more)
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self._prefix)
                found[key] = StoredObject(size=int(item["Size"]), etag=item["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def put_file(self, key: str, file: BinaryIO, digest: Digest, fingerprint: str) -> StoredObject:
        if len(digest.part_md5s) > 1:
            self._put_parts(key, file, digest, fingerprint)
            return self._head_written(key)
        with BODIES_IN_MEMORY:
            return self._put_one(key, os.pread(file.fileno(), digest.size, 0), digest, fingerprint)

    def put_bytes(self, key: str, data: bytes, fingerprint: str) -> StoredObject:
        return self._put_one(key, data, digest_bytes(data), fingerprint)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._request(f"deleting {key}", "delete_object", Key=self._key(key))

    def stop(self) -> None:
        super().stop()
        with self._lock:
            running = tuple(self._in_flight)
        for future in running:
            future.cancel()

    def abort_orphaned_uploads(self) -> int:
        if self._records is None:
            return 0
        aborted = 0
        for record in self._records.orphans(self._bucket, self._prefix):
            aborted += self._abort_uploads(record.upload.key, record.upload.upload_id, unknown_ids=True)
            record.remove()
        return aborted

    def _put_one(self, key: str, data: bytes, digest: Digest, fingerprint: str) -> StoredObject:
        checksum: dict[str, Any] = {}
        if self._native_checksums:
            checksum = {"ChecksumSHA256": base64.b64encode(bytes.fromhex(digest.sha256)).decode()}
        answer = self._request(
            f"writing {key}",
            "put_object",
            Key=self._key(key),
            Body=RequestBody(data),
            Metadata=_metadata(digest, fingerprint),
            **self._content_md5(digest.part_md5s[0]),
            **checksum,
        )
        stored = self._head_written(key)
        if not checksum:
            return stored
        # AWS answers with the checksum that it compared; other servers may need a second request for it
        found = answer.get("ChecksumSHA256") or self._head(key, ChecksumMode="ENABLED").get("ChecksumSHA256")
        return replace(stored, checksum_verified=found == checksum["ChecksumSHA256"])

    def _put_parts(self, key: str, file: BinaryIO, digest: Digest, fingerprint: str) -> None:
        target = self._key(key)
        record = self._records.add(self._bucket, target) if self._records else None
        upload_id: str | None = None
        tries = 0

        def create() -> Any:
            nonlocal tries
            tries += 1
            metadata = _metadata(digest, fingerprint)
            return self._fs._call_s3("create_multipart_upload", Bucket=self._bucket, Key=target, Metadata=metadata)

        try:
            upload_id = str(self._call(f"opening {key}", lambda: self._wait(create()))["UploadId"])
            if record:
                record.add_upload_id(upload_id)
            parts = self._send_parts(key, file, digest, upload_id)
            self._complete(key, digest, upload_id, parts)
        except BaseException:
            # if the server cannot be reached, the record stays, and the next upload of the run aborts this one
            with contextlib.suppress(HarvestError):
                self._abort_uploads(target, upload_id, unknown_ids=upload_id is None or tries > 1)
                if record:
                    record.remove()
            raise
        if tries > 1:
            self._abort_uploads(target, None, unknown_ids=True)
        if record:
            record.remove()

    def _send_parts(self, key: str, file: BinaryIO, digest: Digest, upload_id: str) -> list[dict[str, Any]]:
        def send(index: int) -> dict[str, Any]:
            with BODIES_IN_MEMORY:
                body = RequestBody(os.pread(file.fileno(), digest.part_bytes, index * digest.part_bytes))
                answer = self._request(
                    f"writing part {index + 1} of {key}",
                    "upload_part",
                    Key=self._key(key),
                    UploadId=upload_id,
                    PartNumber=index + 1,
                    Body=body,
                    **self._content_md5(digest.part_md5s[index]),
                )
            checksums = {
                name: value
                for name, value in answer.items()
                if name.startswith("Checksum") and name != "ChecksumType" and value
            }
            return {"PartNumber": index + 1, "ETag": answer["ETag"], **checksums}

        with ThreadPoolExecutor(self.transfer.workers, thread_name_prefix="upload-part") as pool:
            futures = [pool.submit(send, index) for index in range(len(digest.part_md5s))]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _complete(self, key: str, digest: Digest, upload_id: str, parts: list[dict[str, Any]]) -> None:
        try:
            self._request(
                f"completing {key}",
                "complete_multipart_upload",
                Key=self._key(key),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except FileNotFoundError:
            # when an earlier attempt succeeded and only its answer was lost, the object is there
            stored = self.head(key)
            if stored is None or (stored.size, stored.sha256) != (digest.size, digest.sha256):
                text = f"the multipart upload of {key} to {self.url} no longer exists there; run the command again"
                raise UploadError(text, retryable=True) from None

    def _head(self, key: str, **arguments: Any) -> dict[str, Any]:
        return self._request(f"looking up {key}", "head_object", Key=self._key(key), **arguments)

    def _abort_uploads(self, target: str, upload_id: str | None, *, unknown_ids: bool) -> int:
        """Abort the multipart upload ``upload_id``; return how many were aborted.

        With ``unknown_ids`` abort all that are open at the key ``target``: an id is unknown when its answer was lost.
        """
        # runs once also after a stop, without retries
        retry = not self._stop.is_set()
        ids = {upload_id} if upload_id else set()
        if unknown_ids:
            page = self._request("listing open uploads", "list_multipart_uploads", retry=retry, Prefix=target)
            ids |= {item["UploadId"] for item in page.get("Uploads", []) if item["Key"] == target}
        for each in ids:
            with contextlib.suppress(FileNotFoundError):
                self._request("aborting an upload", "abort_multipart_upload", retry=retry, Key=target, UploadId=each)
        return len(ids)

    def _get(self, key: str, span: tuple[int, int] | None) -> bytes:
        start, end = span or (None, None)
        return bytes(self._wait(self._fs._cat_file(f"{self._bucket}/{self._key(key)}", start=start, end=end)))

    def _content_md5(self, md5: bytes) -> dict[str, Any]:
        # over plain HTTP the signature covers the body; over TLS botocore leaves the body out when this header is set
        return {"ContentMD5": base64.b64encode(md5).decode()} if self._tls else {}

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _request(self, what: str, method: str, *, retry: bool = True, **arguments: Any) -> dict[str, Any]:
        def request() -> dict[str, Any]:
            if body := arguments.get("Body"):
                body.seek(0)
            answer: dict[str, Any] = self._wait(self._fs._call_s3(method, Bucket=self._bucket, **arguments))
            return answer

        return self._call(what, request, retry=retry)

    def _wait(self, coroutine: Any) -> Any:
        # s3fs has a synchronous call too, but stop() can cancel this future in the middle of a body
        future = asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)
        with self._lock:
            self._in_flight.add(future)
        try:
            return future.result(SECONDS_AFTER_STOP if self._stop.is_set() else None)
        except TimeoutError:
            future.cancel()
            raise
        finally:
            with self._lock:
                self._in_flight.discard(future)


def _metadata(digest: Digest, fingerprint: str) -> dict[str, str]:
    return {"sha256": digest.sha256, "size": str(digest.size), "fingerprint": fingerprint}
