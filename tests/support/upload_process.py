"""Uploads in processes of their own. They start at once, since they are forked from a process with all imports done."""

import multiprocessing
import os
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import s3fs  # noqa: F401  # imported here so that no upload has to import it

from tasks.storage.filesystems import TransferSettings
from tasks.storage.upload import upload_run

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.upload_process"])


def start_upload(run_dir: Path, url: str, transfer: TransferSettings) -> ForkServerProcess:
    """Start ``upload_run`` with the current environment, in a process that a test can kill.

    What it prints is in ``upload.log`` beside the run.
    """
    process = _CONTEXT.Process(target=_upload, args=(run_dir, url, transfer, dict(os.environ)), daemon=True)
    process.start()
    return process


def _upload(run_dir: Path, url: str, transfer: TransferSettings, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    log = os.open(run_dir.parent / "upload.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    upload_run(run_dir, url, transfer=transfer)
