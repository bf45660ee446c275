"""Search for a secret in everything that a run left behind."""

import base64
import html
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import polars as pl


def forms(secret: str) -> set[bytes]:
    """The secret as it is, and as it would be stored or sent in base64, URLs, JSON, HTML and hex."""
    raw = secret.encode()
    found = {raw, *(each.encode() for each in (quote(secret), quote(secret, safe=""), quote_plus(secret)))}
    found |= {json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode(), html.escape(secret).encode()}
    found |= {secret.replace("/", "\\/").encode(), raw.hex().encode(), raw.hex().upper().encode()}
    # within a longer text, base64 has three forms; characters that depend on the neighbours are left out
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + raw).rstrip(b"=")
            found.add(text[(8 * before + 5) // 6 : len(text) - 1])
    return found


def find_leaks(secrets: Iterable[str], places: Iterable[Path], texts: Iterable[str]) -> list[str]:
    """Where any form of any secret was found: in the files and folders ``places``, and in ``texts``."""
    pattern = re.compile(b"|".join(re.escape(form) for secret in secrets for form in sorted(forms(secret))))
    found = [f"text {index}" for index, text in enumerate(texts) if pattern.search(text.encode())]
    for path in files(places):
        found += [f"{path} ({what})" for what, data in contents(path) if pattern.search(data)]
    return found


def files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield from (path for path in sorted([place, *place.rglob("*")]) if path.is_file())


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The raw bytes, and the rows of a database or Parquet file, which splits or compresses values."""
    data = path.read_bytes()
    yield "bytes", data
    if data.startswith(b"SQLite format 3\0"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            yield "rows", "\n".join(database.iterdump()).encode(errors="surrogateescape")
    elif path.suffix == ".parquet":
        yield "rows", pl.read_parquet(path).write_ndjson().encode()
