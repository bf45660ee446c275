"""The journal: a torn or damaged record counts as never written, and nothing else is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import StorageError
from tasks.generation.journal import QUARANTINE, JournalWriter, Key, pack, read_journal, unpack

KEYS: list[Key] = [(f"q{question}", arm, sample) for question in range(4) for arm in ("a", "b") for sample in range(2)]


def rollout(key: Key, text: str = "é 1\n2") -> dict[str, object]:
    return {"kind": "rollout", "example_id": key[0], "arm_id": key[1], "sample_index": key[2], "completion": text}


def admit(keys: list[Key], isolation: int = 0) -> dict[str, object]:
    return {
        "kind": "admit",
        "example_id": keys[0][0],
        "rollouts": [[key[1], key[2]] for key in keys],
        "isolation": isolation,
    }


def write(path: Path, *records: dict[str, object]) -> None:
    with JournalWriter(path) as journal:
        for record in records:
            journal.append(record)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    write(path, *[rollout(key, f"{key} \ud800") for key in KEYS])
    state = read_journal(path)
    assert set(state.finished) == set(KEYS)
    assert all(record["completion"] == f"{key} \ud800" for key, record in state.finished.items())
    assert read_journal(tmp_path / "none").finished == {}
    assert read_journal(path, keep_rollouts=False).finished == {key: {} for key in KEYS}


@given(cut=st.integers(0, 10_000))
def test_of_records_written_at_once_those_before_a_cut_are_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    with JournalWriter(path) as journal:
        journal.append(*[rollout(key) for key in KEYS])
    lines = path.read_bytes().splitlines(keepends=True)
    os.truncate(path, cut := cut % (1 + path.stat().st_size))
    whole = sum(sum(map(len, lines[: number + 1])) <= cut for number in range(len(lines)))
    assert list(read_journal(path).finished) == KEYS[:whole]


def test_records_of_another_run_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "state" / "journal" / "shard-00000.jsonl"
    mine, other = ({"kind": "open", "run_id": name} for name in ("mine", "other"))
    write(path, rollout(KEYS[0]), other, rollout(KEYS[1]), mine, rollout(KEYS[2]))
    assert list(read_journal(path, "mine").finished) == [KEYS[0], KEYS[2]]
    assert list(read_journal(path).finished) == KEYS[:3]


def test_completed_and_in_flight_count_from_the_latest_open_record(tmp_path: Path) -> None:
    path, opened = tmp_path / "journal", {"kind": "open", "oom_rung": 0}
    write(path, opened, admit(KEYS[:3]), *[rollout(key) for key in KEYS[:3]])
    assert (read_journal(path).num_completed, read_journal(path).in_flight) == (3, {})
    write(path, opened, rollout(KEYS[4]) | {"error": "too long"}, admit(KEYS[8:12]), rollout(KEYS[8]))
    state = read_journal(path, keep_rollouts=False)
    assert (state.num_completed, set(state.in_flight)) == (1, set(KEYS[9:12]))
    write(path, {"kind": "crash"})
    assert read_journal(path).in_flight == {}


@given(cut=st.integers(0, 10_000), more=st.booleans())
def test_a_journal_cut_anywhere_keeps_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, cut: int, more: bool
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal"
    write(path, *[rollout(key) for key in KEYS])
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    os.truncate(path, cut)
    kept = whole[:cut].count(b"\n")
    assert list(read_journal(path).finished) == KEYS[:kept]
    if more:
        write(path, *[rollout(key) for key in KEYS[kept:]])
        assert list(read_journal(path).finished) == KEYS


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_loses_at_most_the_records_that_it_touches(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "journal"
    write(path, *[rollout(key) for key in KEYS])
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    finished = read_journal(path).finished
    assert set(finished) <= set(KEYS)
    # a changed line break joins two records
    assert len(finished) >= len(KEYS) - 2
    assert all(record["completion"] == "é 1\n2" for record in finished.values())


@pytest.mark.parametrize("garbage", [b"\x00" * 40, b"zz not a record\n", b'00000000 {"kind":"rollout"}\n', b"\n\n"])
def test_garbage_between_records_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "journal"
    write(path, rollout(KEYS[0]))
    with path.open("ab") as file:
        file.write(garbage)
    write(path, rollout(KEYS[1]))
    assert list(read_journal(path).finished) == KEYS[:2]


def test_the_first_record_of_a_rollout_stands(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, rollout(KEYS[0], "first"), rollout(KEYS[0], "second"))
    assert read_journal(path).finished[KEYS[0]]["completion"] == "first"


CRASH: dict[str, object] = {"kind": "crash"}
OPEN: dict[str, object] = {"kind": "open", "oom_rung": 0}


@pytest.mark.parametrize(
    ("records", "suspicion"),
    [
        pytest.param([OPEN, admit(KEYS[:4]), admit(KEYS[4:8])], {}, id="no crash, no suspect"),
        pytest.param([OPEN, admit(KEYS[:4]), CRASH], dict.fromkeys(KEYS[:4], 1), id="all in flight are suspects"),
        pytest.param(
            [OPEN, admit(KEYS[:4]), rollout(KEYS[0]), rollout(KEYS[2]), CRASH],
            {KEYS[1]: 1, KEYS[3]: 1},
            id="a finished one is none",
        ),
        pytest.param(
            [OPEN, admit(KEYS[:4]), OPEN, admit(KEYS[4:8]), CRASH],
            dict.fromkeys(KEYS[4:8], 1),
            id="what a killed flow had in flight is none",
        ),
        pytest.param(
            [OPEN, admit(KEYS[:4]), CRASH, OPEN, admit(KEYS[:4], 1), CRASH],
            dict.fromkeys(KEYS[:4], 2),
            id="its question alone",
        ),
        pytest.param(
            [OPEN, admit(KEYS[:4]), CRASH, OPEN, admit(KEYS[:4], 1), CRASH, OPEN, admit(KEYS[:1], 2), CRASH],
            {KEYS[0]: QUARANTINE, **dict.fromkeys(KEYS[1:4], 2)},
            id="alone",
        ),
        pytest.param(
            [OPEN, admit(KEYS[:1]), CRASH, OPEN, admit(KEYS[:1], 1), CRASH],
            {KEYS[0]: QUARANTINE},
            id="a question of one rollout is alone at once",
        ),
        pytest.param(
            [
                *(OPEN, admit(KEYS[:2]), CRASH, OPEN, admit(KEYS[:2], 1), CRASH),
                *(OPEN, admit(KEYS[:1], 2), admit(KEYS[1:2], 2), CRASH),
            ],
            dict.fromkeys(KEYS[:2], 2),
            id="one of two whose record did not come",
        ),
        pytest.param(
            [OPEN, admit(KEYS[:1], 2), CRASH | {"together": True}],
            {KEYS[0]: 2},
            id="alone, but another engine on the GPU died too",
        ),
        pytest.param(
            [OPEN, admit(KEYS[:1]), CRASH],
            {KEYS[0]: 1},
            id="another shard may have been in the engine too",
        ),
    ],
)
def test_suspicion_after_a_crash(tmp_path: Path, records: list[dict[str, object]], suspicion: dict[Key, int]) -> None:
    path = tmp_path / "journal"
    write(path, *records)
    assert read_journal(path).suspicion == suspicion


@pytest.mark.parametrize("values", [[], [0, 1, -(2**31), 2**31 - 1]])
def test_packed_integers_come_back(values: list[int]) -> None:
    assert unpack(pack(values, "i4"), "i4").tolist() == values


FULL_DISK = """
import resource, sys
from pathlib import Path
# modules that Python compiles under the limit would be kept cut off, and no later process could import them
sys.dont_write_bytecode = True
from tasks.errors import StorageError
from tasks.generation.journal import JournalWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with JournalWriter(Path(sys.argv[1])) as journal:
    try:
        for number in range(100):
            journal.append({"kind": "rollout", "example_id": f"q{number}", "arm_id": "a", "sample_index": 0})
    except StorageError as error:
        sys.exit(str(error))
"""


def test_a_full_disk_is_a_storage_error_and_the_journal_goes_on_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    child = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert f"could not write {path}" in child.stderr
    assert "Free space" in child.stderr
    kept = len(read_journal(path).finished)
    assert 0 < kept < 100
    assert path.stat().st_size == 1000  # the last record is torn
    write(path, rollout(("new", "a", 0)))
    assert len(read_journal(path).finished) == kept + 1


def test_a_journal_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not write"):
        JournalWriter(tmp_path / "file" / "journal")
