"""Questions are read from files, directories and buckets, and filtered, shuffled and streamed."""

import json
from pathlib import Path

import datasets
import polars as pl
import pyarrow
import pytest

from tasks.errors import ConfigError
from tasks.plan.questions import find_duplicates, load_questions
from tasks.plan.run_config import DatasetSource
from tasks.records import QUESTION_SCHEMA
from tests.support.odd_paths import ODD_NAMES
from tests.support.s3_servers import Bucket
from tests.support.shared_data import gsm8k_path

ROWS = [{"question": f"Question {index}?", "answer": index, "level": index % 3} for index in range(30)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def ids(source: DatasetSource) -> list[str]:
    return load_questions(source)["example_id"].to_list()


def test_filtered_rows_keep_their_ids(file: Path) -> None:
    filters = ("level=2", "question~[58]")
    assert ids(DatasetSource(path=str(file), filters=filters)) == ["test-000005", "test-000008"]
    assert ids(DatasetSource(path=str(file), filters=("level=2",), questions=3)) == [
        "test-000002",
        "test-000005",
        "test-000008",
    ]


def test_a_smaller_draw_is_the_start_of_a_larger_one(file: Path) -> None:
    drawn = ids(DatasetSource(path=str(file), shuffle_seed=1))

    assert sorted(drawn) == ids(DatasetSource(path=str(file)))
    assert drawn != sorted(drawn)
    assert ids(DatasetSource(path=str(file), shuffle_seed=1, questions=7)) == drawn[:7]
    assert ids(DatasetSource(path=str(file), shuffle_seed=2)) != drawn


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (("level=9",), "none of the 30 rows"),
        (("colour=red",), "has no column 'colour'; it has 'question', 'answer', 'level'. Set filter"),
        (("level",), "is not COLUMN OPERATOR VALUE"),
    ],
)
def test_bad_filters_are_refused(filters: tuple[str, ...], message: str, file: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_questions(DatasetSource(path=str(file), filters=filters))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_directory_is_loaded_by_datasets(streaming: bool, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    pl.DataFrame(ROWS).write_parquet(folder / "test-00000.parquet")

    source = DatasetSource(path=str(folder), streaming=streaming, questions=4, filters=("level>0",))
    assert (
        load_questions(source).rows()
        == load_questions(DatasetSource(path=str(file), questions=4, filters=("level>0",))).rows()
    )


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_compressed_files_are_read(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{kind}.{suffix}"
    frame = pl.DataFrame(ROWS)
    text = {"jsonl": frame.write_ndjson, "json": frame.write_json, "csv": frame.write_csv}[kind]()
    with pyarrow.output_stream(str(path)) as file:
        file.write(text.encode())

    assert load_questions(DatasetSource(path=str(path)))["ground_truth"].to_list() == [str(n) for n in range(30)]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_questions(DatasetSource(path=str(path)))


def test_a_pattern_takes_the_files_in_the_order_of_their_names(file: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for start in (20, 0, 10):
        part = pl.DataFrame(ROWS[start : start + 10])
        part.write_parquet(parts / f"part-{start:02d}.parquet")
    (parts / "notes.txt").write_text("not rows")

    whole = load_questions(DatasetSource(path=str(file)))
    assert load_questions(DatasetSource(path=f"{parts}/*.parquet")).equals(whole)
    with pytest.raises(ConfigError, match=r"no dataset file matches .*\*\.jsonl"):
        load_questions(DatasetSource(path=f"{parts}/*.jsonl"))
    with pytest.raises(ConfigError, match="cannot be used: Invalid pattern"):
        load_questions(DatasetSource(path=f"{parts}/a**.jsonl"))


PARQUET_NAMES = {"a[1]", "line\nbreak"}
"""Of the odd names those under which Parquet is read too: each file is checked in a process of its own."""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_exists_is_no_pattern(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    # what the name would match if it were a pattern
    for other in ("a1", "sB", "qq"):
        (tmp_path / other).mkdir()
        pl.DataFrame(ROWS[:1]).write_parquet(tmp_path / other / "test-0.parquet")
    frame = pl.DataFrame(ROWS)
    frame.write_ndjson(folder / "test.jsonl")
    frame.write_json(folder / "x[0]*?.json")
    assert load_questions(DatasetSource(path=f"{folder}/*.jsonl")).height == 30
    assert load_questions(DatasetSource(path=f"file://{folder}/x[0]*?.json")).height == 30
    if name in PARQUET_NAMES:
        frame.write_parquet(folder / "test-0.parquet")
        frame.write_parquet(folder / "x[0]*?.parquet")
        assert load_questions(DatasetSource(path=f"{folder}/test-*.parquet")).height == 30
        assert load_questions(DatasetSource(path=f"file://{folder}/x[0]*?.parquet")).height == 30


@pytest.mark.parametrize(("name", "streaming"), [("a[1]", False), ("s*", True), ("a::b", True), ("line\nbreak", False)])
def test_a_directory_with_an_odd_name_is_loaded_by_datasets(name: str, streaming: bool, tmp_path: Path) -> None:
    for folder, rows in ((name, ROWS), ("a1", ROWS[:1]), ("sB", ROWS[:1])):
        (tmp_path / folder).mkdir()
        pl.DataFrame(rows).write_parquet(tmp_path / folder / "test-0.parquet")
    assert load_questions(DatasetSource(path=str(tmp_path / name), streaming=streaming)).height == 30


@pytest.mark.parametrize("remote", [False, True])
def test_datasets_saved_to_disk_are_read(remote: bool, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=rows.select([0]), test=rows).save_to_disk(tmp_path / "splits")
    at = f"file://{tmp_path}" if remote else str(tmp_path)

    assert load_questions(DatasetSource(path=f"{at}/plain")).height == 30
    assert load_questions(DatasetSource(path=f"{at}/splits")).height == 30
    assert load_questions(DatasetSource(path=f"{at}/splits", split="train")).height == 1
    with pytest.raises(ConfigError, match="no split 'validation'; it has train, test"):
        load_questions(DatasetSource(path=f"{at}/splits", split="validation"))
    (tmp_path / "plain" / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="plain cannot be read: "):
        load_questions(DatasetSource(path=f"{at}/plain"))


HUB_CARD = """---
configs:
- config_name: main
  data_files: [{split: test, path: main.jsonl}]
- config_name: socratic
  data_files: [{split: test, path: socratic.jsonl}]
---
"""


@pytest.mark.parametrize(("config", "truth"), [(None, "1"), ("socratic", "2")])
def test_gsm8k_needs_no_configuration(
    config: str | None, truth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ``datasets`` loads a directory with the name of the hub id instead of the hub's dataset
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(HUB_CARD)
    for name, answer in (("main", "#### 1"), ("socratic", "#### 2")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"question": "?", "answer": answer}))
    monkeypatch.chdir(tmp_path)

    [row] = load_questions(DatasetSource(path="openai/gsm8k", config=config)).iter_rows(named=True)
    assert row["ground_truth"] == truth


def test_every_row_of_gsm8k_is_usable() -> None:
    questions = load_questions(DatasetSource(path=str(gsm8k_path("test"))))
    assert (questions.height, questions["example_id"].n_unique()) == (1319, 1319)
    assert questions["ground_truth"].str.contains(r"^-?\d+(\.\d+)?$").all()
    assert questions["ground_truth"].head(3).to_list() == ["18", "3", "70000"]


def test_a_file_in_a_bucket_is_read(file: Path, bucket: Bucket) -> None:
    bucket.server.client().put_object(Bucket=bucket.name, Key="team/data.jsonl", Body=file.read_bytes())
    url = f"s3://{bucket.name}/team/data.jsonl"

    assert load_questions(DatasetSource(path=url)).equals(load_questions(DatasetSource(path=str(file))))
    # an object whose key looks like a pattern is that object
    bucket.server.client().put_object(Bucket=bucket.name, Key="team/data[1]*.jsonl", Body=file.read_bytes())
    bucket.server.client().put_object(Bucket=bucket.name, Key="team/data1.jsonl", Body=b"")
    assert load_questions(DatasetSource(path=f"s3://{bucket.name}/team/data[1]*.jsonl")).height == len(ROWS)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_questions(DatasetSource(path=f"s3://{bucket.name}/team/missing.jsonl"))
    with pytest.raises(ConfigError, match="no dataset file matches"):
        load_questions(DatasetSource(path=f"s3://{bucket.name}/team/*.csv"))


def test_a_pattern_and_a_directory_in_a_bucket_are_read(bucket: Bucket, tmp_path: Path) -> None:
    for split, rows in (("train", ROWS[:2]), ("test", ROWS)):
        for number, half in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
            local = tmp_path / f"{split}-{number}.parquet"
            pl.DataFrame(half).write_parquet(local)
            bucket.server.client().upload_file(str(local), bucket.name, f"data/{local.name}")

    wanted = [str(number) for number in range(30)]
    url = f"s3://{bucket.name}/data"
    assert load_questions(DatasetSource(path=f"{url}/test-*.parquet"))["ground_truth"].to_list() == wanted
    assert load_questions(DatasetSource(path=url))["ground_truth"].to_list() == wanted
    assert load_questions(DatasetSource(path=f"{url}/", split="train"))["ground_truth"].to_list() == ["0", "1"]
    with pytest.raises(ConfigError, match=r"dataset s3://.* c(annot|ould not) be"):
        load_questions(DatasetSource(path=f"s3://{bucket.name}/nothing"))


def test_duplicates_are_counted_despite_case_and_spacing() -> None:
    texts = ["What is 1 + 1?", "what is  1 + 1? ", "What is 2?", "WHAT IS 1 + 1?", "What is 2?"]
    rows = [(f"q{index}", text, truth) for index, (text, truth) in enumerate(zip(texts, "22423", strict=True))]

    found = find_duplicates(pl.DataFrame(rows, schema=QUESTION_SCHEMA, orient="row"))
    assert (found.repeated, found.conflicting, found.example) == (3, 1, ("q0", "q1"))
    assert (
        str(found)
        == "3 questions repeat an earlier one, 1 of the texts with different ground truths; such as q0 and q1"
    )
    assert find_duplicates(pl.DataFrame(rows[:1], schema=QUESTION_SCHEMA, orient="row")).repeated == 0
