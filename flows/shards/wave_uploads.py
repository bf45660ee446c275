"""Uploads each wave of a shard as soon as it is final, in a thread, while the next one is generated.

These uploads are no task runs, as Prefect's server is slow with thousands. One that fails costs nothing: the upload of
the whole shard, which is a task run with retries, sends what is missing.
"""

import contextvars
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from flows.server.aws_credentials import transfer_of_flow_run
from flows.server.transfer_retries import transfer_delays
from flows.shards.pending_tasks import PendingTasks
from tasks.errors import HarvestError
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.records import RunPaths, shard_of, wave_of
from tasks.storage.upload import RunUploader

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often a request for a wave is tried. What waits for it, the upload of the whole shard, tries more often."""

_Key = tuple[Path, int]
"""The directory of a run, and the index of a shard."""


class WaveUploads:
    """Uploads to ``url`` one wave after the other; does nothing without a URL. Use it as a context manager.

    Its exit stops the upload that is in progress. Everything but the uploads is done on the flow's main thread.
    """

    def __init__(self, pending: PendingTasks, url: str | None) -> None:
        self._pending = pending
        self._url = url
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wave-uploads")
        self._uploaders: dict[Path, RunUploader] = {}
        """One for all waves of a run: each would list the destination, and make a client."""
        self._waiting: dict[_Key, list[str]] = {}
        """The files to upload of each shard, relative to the run's directory."""
        self._uploading: _Key | None = None
        self._next: Callable[[], None] | None = None
        """What is to be called when the upload in progress has ended."""
        self._is_closed = False

    def add(self, plan: RunPlan, index: int) -> None:
        """Upload the wave ``index``, which is final and has another one after it."""
        if self._url is not None:
            paths = RunPaths(root=plan.paths.root)
            files = [paths.rollouts(index), paths.scores(index)]
            if not wave_of(index):
                files.insert(0, paths.questions(index))
            names = [str(file.relative_to(paths.root)) for file in files]
            self._waiting.setdefault((paths.root, shard_of(index)), []).extend(names)
            self._upload_next(self._url)

    def hand_over(self, plan: RunPlan, shard: Shard, upload: Callable[[], None]) -> None:
        """Upload no more waves of ``shard``. Call ``upload``, for the whole of it, once none is being uploaded."""
        key = plan.paths.root, shard.index
        self._waiting.pop(key, None)
        if self._uploading == key:
            logger.info("shard %s of %s goes up when its wave that is being sent is", shard.index, plan.run_id)
            self._next = upload
        else:
            upload()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        for uploader in [*self._uploaders.values()]:
            uploader.abort()
        self._thread.shutdown(cancel_futures=True)

    def _upload_next(self, url: str) -> None:
        if self._uploading is not None or not self._waiting:
            return
        key = self._uploading = next(iter(self._waiting))
        # with the context, which knows the flow run's credentials and stops transfers at a signal
        call = contextvars.copy_context().run
        future = self._thread.submit(call, self._upload, url, key[0], self._waiting.pop(key))
        self._pending.add(future, lambda _: self._on_ended(url))

    def _on_ended(self, url: str) -> None:
        self._uploading = None
        if self._next is not None:
            call, self._next = self._next, None
            call()
        self._upload_next(url)

    def _upload(self, url: str, root: Path, names: Sequence[str]) -> None:
        try:
            if root not in self._uploaders:
                transfer = transfer_of_flow_run(attempts=ATTEMPTS, **transfer_delays())
                self._uploaders[root] = RunUploader(root, url, transfer=transfer)
            if self._is_closed:
                return
            self._uploaders[root].upload_files(names)
        except HarvestError as error:
            # the next one is tried with a new client, whose credentials may be newer
            self._uploaders.pop(root, None)
            logger.info("%s of %s goes up with its shard: %s", names[-1], root.name, error)
