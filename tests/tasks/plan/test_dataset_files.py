"""Dataset files of any content are read or refused in one line, within limits on memory."""

import collections
import itertools
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow
import pytest

from tasks.errors import ConfigError
from tasks.plan.dataset_files import read_files, read_remote_files
from tasks.plan.dataset_limits import LARGEST_ROW, MOST_ROWS, limit_rows
from tasks.plan.dataset_parquet import check_in_process
from tasks.plan.dataset_text import check_unpacked
from tasks.plan.questions import load_questions
from tasks.plan.run_config import DatasetSource
from tasks.units import MIB

ROW = {"question": "1 + 1?", "answer": "2"}
LARGE = '{"question": "' + "0" * (LARGEST_ROW + 1) + '"}'
BLANK = " " * (MIB - 1) + "\n"


def compress(path: Path, text: str, times: int = 1) -> Path:
    with pyarrow.output_stream(str(path)) as file:
        for _ in range(times):
            file.write(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zeros.jsonl.gz", "\0" * (LARGEST_ROW + 1)),
        ("large.jsonl.zst", LARGE),
        ("large.json.zst", f"[{LARGE}]"),
        ("endless.json.zst", f"[{LARGE[:-2]}"),
        ("zeros.csv.gz", "\0" * (LARGEST_ROW + 1)),
        ("cell.csv.zst", "question,answer\n" + "0" * (LARGEST_ROW + 1)),
        ("row.csv.zst", "question,answer\n" + '"a\n",' * (LARGEST_ROW // 5)),
    ],
)
def test_a_row_that_unpacks_to_too_much_is_refused_with_the_limit(tmp_path: Path, name: str, text: str) -> None:
    path = compress(tmp_path / name, text)
    with pytest.raises(ConfigError, match=rf"{name} has a row of more than {LARGEST_ROW:,} characters"):
        list(read_files(str(path)))


@pytest.mark.parametrize("name", ["blank.jsonl.zst", "blank.json.zst", "blank.csv.zst"])
def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, name: str) -> None:
    path = compress(tmp_path / name, BLANK, times=257)
    with pytest.raises(ConfigError, match=rf"{name} unpacks to more than {256 * MIB:,} characters, 100 times its size"):
        list(read_files(str(path)))


def test_a_cell_of_a_parquet_file_that_is_too_large_is_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "cell.parquet"
    pl.DataFrame({"question": ["0" * (LARGEST_ROW + 1)], "answer": ["1"]}).write_parquet(path)
    assert path.stat().st_size < MIB
    with pytest.raises(ConfigError, match=rf"cell\.parquet has a row of more than {LARGEST_ROW:,} characters"):
        list(read_files(str(path)))


def test_a_file_of_too_many_rows_is_refused_with_the_limit() -> None:
    path = Path("rows.jsonl")
    assert sum(1 for _ in limit_rows(itertools.repeat(ROW, MOST_ROWS), path)) == MOST_ROWS
    with pytest.raises(ConfigError, match=rf"rows\.jsonl has more than {MOST_ROWS:,} rows"):
        collections.deque(limit_rows(itertools.repeat(ROW), path), maxlen=0)


def test_large_rows_within_the_limit_are_read(tmp_path: Path) -> None:
    rows = [{"question": f"{number}" * 3 * MIB, "answer": number} for number in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pl.DataFrame(rows).write_csv(tmp_path / "a.csv")
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    for kind in ("json", "jsonl", "parquet"):
        assert list(read_files(str(tmp_path / f"a.{kind}"))) == rows
    assert [row["question"] for row in read_files(str(tmp_path / "a.csv"))] == [row["question"] for row in rows]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("[]", []),
        (" \n[ ]\n ", []),
        ('[{"a": 1}]', [{"a": 1}]),
        (f'[ {{"a": "]}}"}}{" " * 2 * MIB},{BLANK}{{"a": {{"b": [2]}}}} ]', [{"a": "]}"}, {"a": {"b": [2]}}]),
    ],
)
def test_a_json_array_is_read_object_by_object(tmp_path: Path, text: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "data.json").write_text(text)
    assert list(read_files(str(tmp_path / "data.json"))) == rows


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("data.json", "", r"is not valid JSON: the end where '\[' should be"),
        ("data.json", "[1]", "must be a JSON array of objects"),
        ("data.json", '[{"a": 1}, null]', "must be a JSON array of objects"),
        ("data.json", "[" * 100_000, "must be a JSON array of objects"),
        ("data.json", '[{"a": ' + "[" * 100_000, "is not valid JSON: it is nested too deeply"),
        ("data.json", '[{"a": 1}', "is not valid JSON: the end where ']' should be"),
        ("data.json", '[{"a": 1} {"a": 2}]', "is not valid JSON: '{' where ']' should be"),
        ("data.json", '[{"a": 1}] []', "is not valid JSON"),
        ("data.json", '[{"a": 1,}]', "is not valid JSON"),
        ("data.json", '[{"a": ' + "9" * 5_000 + "}]", "is not valid JSON"),
        ("data.jsonl", '{"a": ' + "[" * 100_000, "line 1 is not valid JSON: it is nested too deeply"),
        ("data.json", '[{"a": 1, "a": 2}]', "is not valid JSON: it has 'a' twice"),
        ("data.jsonl", '{"a": 1}\n{"a": ' + "9" * 5_000 + "}", "line 2 is not valid JSON"),
        ("data.jsonl", '{"a": 1, "b": {"c": 1, "c": 1}}', "line 1 is not valid JSON: it has 'c' twice"),
        ("data.csv", "q,a\nHow many?,1,000\n", "line 2 has 3 fields, and the header 2 columns"),
        ("data.csv", 'q,a\n"two\nlines",1\nHow many?\n', "line 4 has 1 fields, and the header 2 columns"),
        ("data.csv", "q,a,a\nHow many?,1,2\n", "has the column 'a' twice"),
        ("data.csv", "q,a,\nHow many,1,000\n", "line 2 has '000' in a column without a name"),
        ("data.csv", 'a,q\n7,"x\n8,y\n9,z\n', "unexpected end of data"),
        ("data.csv", 'q,a\n"x"y,7\n', "expected after"),
    ],
)
def test_the_error_says_what_is_wrong_with_the_text(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=told):
        list(read_files(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("q,a,,\nx,7,,\n,,,\n \n", [{"q": "x", "a": "7", "": ""}]),
        (",q,a\n0,x,7\n", [{"": "0", "q": "x", "a": "7"}]),
        ('\ufeffq,a\r\n"two\r\nlines, ""quoted""",7\r\n\r\n', [{"q": 'two\r\nlines, "quoted"', "a": "7"}]),
    ],
    ids=["empty rows and columns of a spreadsheet", "the index of pandas", "quotes"],
)
def test_csv_as_programs_write_it_is_read(tmp_path: Path, text: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "data.csv").write_bytes(text.encode())
    assert list(read_files(str(tmp_path / "data.csv"))) == rows


ODD: dict[str, Callable[[Path], object]] = {
    "it is a pipe": os.mkfifo,
    "it is a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.csv", "a.parquet"])
@pytest.mark.parametrize("reason", ODD)
def test_a_pipe_or_a_device_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    ODD[reason](tmp_path / name)
    for path in (tmp_path / name, tmp_path / f"*{Path(name).suffix}"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read: .*{reason}"):
            list(read_files(str(path)))
        with pytest.raises(ConfigError, match=f"{name} cannot be read: .*{reason}"):
            list(read_remote_files(path.as_uri().replace("%2A", "*")))


@pytest.mark.parametrize("reason", ODD)
def test_a_directory_with_a_pipe_or_a_device_is_refused(tmp_path: Path, reason: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.jsonl").write_text(json.dumps(ROW))
    ODD[reason](tmp_path / "test" / "b.jsonl")
    with pytest.raises(ConfigError, match=r"holds test/b\.jsonl, which is no file"):
        load_questions(DatasetSource(path=str(tmp_path)))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", BLANK * 257)


BOMBS: dict[str, Callable[[Path], object]] = {
    "a.jsonl.zst": lambda path: compress(path, BLANK, times=257),
    "a.tar.gz": lambda path: compress(path, BLANK, times=257),
    "a.jsonl.xz": lambda path: path.write_bytes(lzma.compress(BLANK.encode() * 257, preset=0)),
    "a.zip": _zip,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_directory_with_a_file_that_unpacks_to_far_more_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "b.jsonl").write_text(json.dumps(ROW))
    BOMBS[name](tmp_path / "test" / name)
    with pytest.raises(ConfigError, match=rf"{name} unpacks to more than {256 * MIB:,} characters, 100 times its size"):
        load_questions(DatasetSource(path=str(tmp_path)))


def test_a_directory_with_a_parquet_file_of_large_cells_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    pl.DataFrame({"question": ["0" * (LARGEST_ROW + 1)], "answer": ["1"]}).write_parquet(
        tmp_path / "test" / "a.parquet"
    )
    with pytest.raises(ConfigError, match=rf"a\.parquet has a row of more than {LARGEST_ROW:,} characters"):
        load_questions(DatasetSource(path=str(tmp_path)))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz", "a.zip"])
def test_what_cannot_be_unpacked_is_for_its_reader_to_say(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    check_unpacked(tmp_path / name)


@pytest.mark.parametrize("damage", [slice(0, 200), slice(4, None), slice(0, -1)])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, damage: slice) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame([ROW] * 50).write_parquet(path)
    path.write_bytes(path.read_bytes()[damage])
    with pytest.raises(ConfigError, match=r"a\.parquet cannot be read: "):
        list(read_files(str(path)))


def abort(path: Path) -> None:
    os.abort()


def test_the_end_of_the_process_that_reads_is_survived(tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    with pytest.raises(
        ConfigError, match=r"a\.parquet or one of the 1 after it cannot be read: .*SIGABRT\. Check that"
    ):
        check_in_process(abort, *files)


def test_many_parquet_files_are_read_in_order(tmp_path: Path) -> None:
    for number in range(5):
        pl.DataFrame({"question": [str(number)]}).write_parquet(tmp_path / f"{number}.parquet")
    assert [row["question"] for row in read_files(f"{tmp_path}/*.parquet")] == list("01234")
