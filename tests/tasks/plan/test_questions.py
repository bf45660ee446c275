import json
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.plan.questions import ground_truth, load_questions
from tasks.plan.run_config import DatasetSource
from tasks.records import QUESTION_SCHEMA

ROWS = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}, {"question": "Total?", "answer": "#### 1,234"}]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    match path.suffix:
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        case ".json":
            path.write_text(json.dumps(rows))
        case ".csv":
            pl.DataFrame(rows).write_csv(path)
        case ".parquet":
            pl.DataFrame(rows).write_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_questions(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", ROWS)
    questions = load_questions(DatasetSource(path=str(path)))
    assert questions.schema == QUESTION_SCHEMA
    assert questions.rows() == [("test-000000", "1 + 1?", "2"), ("test-000001", "Total?", "1234")]


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("steps\n#### 18", "18"),
        ("#### 1,234", "1234"),
        ("18", "18"),
        (" -5 ", "-5"),
        ("a #### 1 #### 2", "2"),
        ("-1,234,567.5", "-1234567.5"),
        ("#### (3,4)", "(3,4)"),
        ("1, 2", "1, 2"),
        ("1,23", "1,23"),
    ],
)
def test_the_ground_truth_is_the_final_answer(answer: str, truth: str) -> None:
    assert ground_truth(answer) == truth


def test_demo_questions_are_stable_and_a_prefix_of_more() -> None:
    few = load_questions(DatasetSource(questions=5))
    assert few.equals(load_questions(DatasetSource(questions=12)).head(5))
    assert few["example_id"].n_unique() == 5


def test_columns_and_ids_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{"q": "1 + 1?", "gold": 2, "key": 7}])
    source = DatasetSource(path=str(path), question_column="q", answer_column="gold", id_column="key")
    assert load_questions(source).rows() == [("7", "1 + 1?", "2")]


def test_an_empty_question_stays_for_an_error_row(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{"question": "  ", "answer": "2"}, {"question": None, "answer": "3"}])
    assert load_questions(DatasetSource(path=str(path)))["question"].to_list() == ["", ""]


@pytest.mark.parametrize(
    ("rows", "settings", "told"),
    [
        ([{"prompt": "?", "answer": "1"}], {}, r"no column 'question'; it has 'prompt', 'answer'"),
        ([{"question": "?", "gold": "1"}], {}, r"no column 'answer'"),
        ([{"question": "?", "answer": "1"}], {"id_column": "key"}, r"no column 'key'"),
        ([{"question": "?", "answer": "1", "key": 1}] * 2, {"id_column": "key"}, r"rows 0 and 1 share the id '1'"),
        ([{"question": "?", "answer": "1", "key": None}], {"id_column": "key"}, r"row 0: id column 'key' is None"),
        ([{"question": 42, "answer": "1"}], {}, r"row 0: 'question' is 42 \(int\); it must be text"),
        ([{"question": "?", "answer": None}], {}, r"row 0: 'answer' is None"),
        ([{"question": "?", "answer": ""}], {}, r"row 0: 'answer' is ''"),
        ([{"question": "?", "answer": float("nan")}], {}, r"row 0: 'answer' is nan; it must be a number or text"),
        ([{"question": "?", "answer": float("-inf")}], {}, r"row 0: 'answer' is -inf"),
        ([{"question": "?", "answer": True}], {}, r"row 0: 'answer' is True"),
        ([{"question": "?", "answer": [1]}], {}, r"row 0: 'answer' is \[1\]"),
        ([{"question": ["?"] * 99, "answer": "1"}], {}, r"row 0: 'question' is \[('\?', )+\.\.\.\] \(list\)"),
        ([{"question": "?", "answer": " \n"}], {}, r"row 0: 'answer' is ' \\n'"),
        ([*ROWS, {"question": "?", "answer": "steps ####"}], {}, r"row 2: 'answer' is 'steps ####'"),
        ([{"question": "?", "answer": f"{'a' * 99} #### \t\n"}], {}, r"row 0: 'answer' is 'a+\.\.\.a+ #### .*a value"),
        ([{"question": "?", "answer": "#### ,"}], {}, r"row 0: 'answer' is '#### ,'"),
        ([*ROWS, {"prompt": "?", "answer": "1"}], {}, r"row 2 has no 'question'; it has 'prompt', 'answer'. Fix"),
        ([*ROWS, {"question": "?"}], {}, r"row 2 has no 'answer'; it has 'question'. Fix or remove the row"),
        ([], {}, r"has no rows"),
    ],
)
def test_the_error_names_the_bad_row(
    tmp_path: Path, rows: list[dict[str, object]], settings: dict[str, str], told: str
) -> None:
    path = write(tmp_path / "data.jsonl", rows)
    with pytest.raises(ConfigError, match=told):
        load_questions(DatasetSource(path=str(path), **settings))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("bad.jsonl", b'{"question": \n', "line 1 is not valid JSON"),
        ("bad.json", b"[{", "is not valid JSON"),
        ("object.json", b"{}", "must be a JSON array"),
        ("list.jsonl", b"[1]\n", "line 1 is a list"),
        ("bad.parquet", b"not parquet", "cannot be read"),
        ("bad.csv", b"question,answer\n\xff,1\n", "cannot be read"),
        ("data.txt", b"hello", "is not a file that can be read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        load_questions(DatasetSource(path=str(path)))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_questions(DatasetSource(path=str(path)))["ground_truth"].to_list() == ["2", "1234"]


def test_demo_has_two_splits() -> None:
    with pytest.raises(ConfigError, match="no split 'validation'; it has train and test"):
        load_questions(DatasetSource(split="validation"))


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("column", ["question", "answer", "id", "other"])
def test_a_lone_surrogate_is_refused(column: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    rows = [{"id": f"{number}", "question": "\U0001f600?", "answer": "2", "other": ""} for number in range(3)]
    rows[1][column] += "\ud800"
    path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows))
    where = "line 2" if suffix == ".jsonl" else "row 1"
    told = rf'rows\{suffix} {where}: {{"{column}": .*ud800"}} holds half a surrogate'
    with pytest.raises(ConfigError, match=told):
        load_questions(DatasetSource(path=str(path), id_column="id"))
