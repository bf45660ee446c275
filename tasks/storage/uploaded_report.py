"""report.html before, while and after it is uploaded: its verdict on the upload is replaced, all else stays.

A page is sent before ``_SUCCESS`` is written and is not touched afterwards. So the page that is sent says that the
upload is complete, and that ``_SUCCESS`` beside it vouches for that. The run directory's own page says so only once
``_SUCCESS`` is written. It is then the file that the manifest lists, byte for byte, and the next upload need not send
it again.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import StorageError
from tasks.files import atomic_path
from tasks.storage.manifest import REPORT
from tasks.storage.page_verdict import Verdict
from tasks.storage.upload_receipt import UploadReceipt, read_receipt

logger = logging.getLogger(__name__)

_UPLOAD = "Upload"
# what comes from elsewhere is escaped, so that no text on the page can look like this
_ITEM = re.compile(rb'<li class="[a-z]+"><span>' + _UPLOAD.encode() + rb"</span><b>[^<]*</b>[^<]*</li>")


def upload_verdict(receipt: UploadReceipt | None) -> Verdict:
    """What a run's receipt says of its upload."""
    if receipt is None:
        return Verdict(name=_UPLOAD, word="none", tone="unknown", reason="Not uploaded when this page was made.")
    if receipt.complete:
        return _complete(receipt.url)
    reason = f"Begun to {receipt.url}, where _SUCCESS is missing; harvest upload completes it."
    return Verdict(name=_UPLOAD, word="not finished", tone="careful", reason=reason)


def judge_upload(run_dir: Path) -> None:
    """Have the run's page, if it has one, say what the receipt says now. A failure is logged: it is only a page."""
    page = run_dir / REPORT
    if page.is_file():
        try:
            _publish(page, upload_verdict(read_receipt(run_dir)), page)
        except StorageError as error:
            logger.warning("%s may not say what became of the upload: %s", page, error)


@contextlib.contextmanager
def report_to_send(run_dir: Path, url: str) -> Iterator[dict[str, Path]]:
    """Where the upload to ``url`` that is to be finished meanwhile reads the page instead of in the run directory.

    Afterwards the run's page is the one that was sent, or after an error says what the receipt says.
    """
    page, sent = run_dir / REPORT, run_dir / "state" / REPORT
    sent.unlink(missing_ok=True)  # of a killed upload
    if page.is_file():
        _publish(page, _complete(url), sent)
    read_from = {REPORT: sent} if sent.is_file() else {}
    try:
        yield read_from
        for made in read_from.values():
            made.replace(page)
    except BaseException:
        judge_upload(run_dir)
        raise
    finally:
        read_from.clear()


def _complete(url: str) -> Verdict:
    reason = f"At {url}; _SUCCESS there vouches for every file."
    return Verdict(name=_UPLOAD, word="complete", tone="good", reason=reason)


def _publish(page: Path, verdict: Verdict, path: Path) -> None:
    item = verdict.__html__().encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(_ITEM.sub(lambda _: item, page.read_bytes(), count=1))
