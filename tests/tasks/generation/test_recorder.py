"""The process that records rollouts: its bounded queue, and its errors as the replica gets them."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tasks.errors import StorageError
from tasks.generation.engine import EngineOutput
from tasks.generation.generation_spec import ShardWork
from tasks.generation.journal import JournalWriter, read_journal
from tasks.generation.recorder import Recorder
from tasks.generation.rollout_writer import FinishedRollout
from tests.support.patience import SHORT_SECONDS, pause
from tests.support.replica_parts import ByteTokenizer, make_shard, make_spec

Make = Callable[[ByteTokenizer], Recorder]


class SlowTokenizer(ByteTokenizer):
    def decode(self, completion_ids: list[int], stop: Sequence[str] = ()) -> str:
        pause(SHORT_SECONDS / 5)
        return super().decode(completion_ids, stop)


def rollout(number: int) -> FinishedRollout:
    output = EngineOutput(request_id="", completion_ids=[49], logprobs=[-0.5], finish_reason="stop")
    return FinishedRollout(example_id=f"q{number}", arm_id="plain", sample_index=0, prompt_ids=[1], output=output)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Recorder] = []

    def make_one(tokenizer: ByteTokenizer) -> Recorder:
        made.append(Recorder(tokenizer, make_spec(), max_unrecorded=5))
        return made[-1]

    yield make_one
    for recorder in made:
        recorder.kill()


@pytest.fixture
def work(tmp_path: Path) -> ShardWork:
    shard = make_shard(tmp_path, 3, ["a"])
    JournalWriter(shard.journal).close()
    return shard


def test_the_queue_is_bounded_and_every_rollout_is_recorded(work: ShardWork, make: Make) -> None:
    recorder = make(SlowTokenizer())
    recorder.open(work)
    recorded = 0
    for number in range(30):
        recorder.record([(work.key, rollout(number))])
        assert len(read_journal(work.journal).finished) >= number + 1 - 5
        recorded += recorder.take_recorded()[work.key]
    recorder.drain()
    assert recorded + recorder.take_recorded()[work.key] == 30
    assert len(read_journal(work.journal).finished) == 30


def test_the_end_of_the_process_is_an_error(work: ShardWork, make: Make) -> None:
    recorder = make(ByteTokenizer())
    recorder.open(work)
    recorder.drain()
    os.kill(recorder.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the process that records rollouts ended with exit code -9"):
        record_for_ever(recorder, work)


def record_for_ever(recorder: Recorder, work: ShardWork) -> None:
    for number in itertools.count():
        recorder.record([(work.key, rollout(number))])


def test_a_journal_that_cannot_be_written_is_a_storage_error(work: ShardWork, make: Make) -> None:
    work.journal.unlink()
    work.journal.mkdir()
    recorder = make(ByteTokenizer())
    with pytest.raises(StorageError, match=r"could not write .*\.jsonl: .*Is a directory"):
        open_and_wait(recorder, work)


def open_and_wait(recorder: Recorder, work: ShardWork) -> None:
    recorder.open(work)
    recorder.drain()
