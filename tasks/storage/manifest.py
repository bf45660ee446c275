"""The manifest of a run: every published file with its rows, size and hashes."""

import re
from dataclasses import dataclass

from tasks.files import parse_record
from tasks.plain_text import one_line
from tasks.records import DIFFICULTY

MANIFEST = "manifest.json"
SUCCESS = "_SUCCESS"
CONFIG = "config.json"
SHARD_FOLDERS = ("questions", "rollouts", "scores")
SINGLE_FILES = (
    CONFIG,
    "prompts.json",
    "preflight.json",
    "equivalence.json",
    "mismatch.json",
    "report.json",
    "report.html",
    "telemetry.parquet",
    DIFFICULTY,
    "README.md",
)
_SHARD = re.compile(rf"(?:{'|'.join(SHARD_FOLDERS)})/shard-[A-Za-z0-9_.-]{{1,100}}\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_XXH3 = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 2**63 - 1
_LONGEST_NAME = 255
"""In bytes, as in most filesystems."""


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One published file."""

    path: str
    """Relative to the run directory."""
    rows: int | None
    """None for a file that is not Parquet."""
    bytes: int
    sha256: str
    """In hex."""
    xxh3: str | None = None
    """In hex, 128 bits: what readers of a downloaded run compare. Manifests of earlier versions have none."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``manifest.json``."""

    run_id: str
    fingerprint: str
    equivalence: str | None
    """The verdict of the comparison with a baseline; None for a run that was not compared."""
    files: tuple[ManifestFile, ...]


@dataclass(frozen=True, kw_only=True)
class SuccessMarker:
    """The contents of ``_SUCCESS``, which is written last: the manifest with this hash describes a complete upload."""

    run_id: str
    manifest_sha256: str
    """In hex."""


def is_run_name(name: str) -> bool:
    """Return whether a directory of this ``name`` can be made on any machine that a run is downloaded to."""
    is_plain = one_line(name, len(name)) == name
    return is_plain and name not in ("", ".", "..") and not {*"/\\"} & {*name} and len(name.encode()) <= _LONGEST_NAME


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in ``data``. Raises ValueError when it is none, or is not of the files that a run publishes.

    The names in it become paths on this machine, and others may have written it.
    """
    manifest = parse_record(data, Manifest)
    if not is_run_name(manifest.run_id):
        raise ValueError(f"its run_id {one_line(manifest.run_id, 80)!r} is no directory name")
    listed = set()
    for file in manifest.files:
        name = one_line(file.path, 80)
        if file.path not in SINGLE_FILES and not _SHARD.fullmatch(file.path):
            raise ValueError(f"it names {name!r}, which is no file that a run publishes")
        if file.path in listed:
            raise ValueError(f"it names {name!r} twice")
        if not 0 <= file.bytes <= _MOST_BYTES or not 0 <= (file.rows or 0) <= _MOST_BYTES:
            raise ValueError(f"the size of {name} is no number of bytes or rows")
        if not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"the sha256 of {name} is {one_line(file.sha256, 80)!r}")
        if file.xxh3 is not None and not _XXH3.fullmatch(file.xxh3):
            raise ValueError(f"the xxh3 of {name} is {one_line(file.xxh3, 80)!r}")
        listed.add(file.path)
    if CONFIG not in listed:
        raise ValueError(f"it does not name {CONFIG}")
    return manifest
