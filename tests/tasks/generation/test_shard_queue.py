"""The shard queue: every waiting thread gets a result or an error."""

from concurrent.futures import Future

import pytest

from tasks.errors import EngineCrashed, StorageError
from tasks.generation.generation_spec import ShardKey
from tasks.generation.shard_queue import ShardQueue, ShardResult
from tasks.plan.shards import Shard


def key(index: int) -> ShardKey:
    return ShardKey("run", index)


def shard(index: int) -> Shard:
    return Shard(index=index, num_questions=2, num_rollouts=16)


@pytest.fixture
def queue() -> ShardQueue:
    return ShardQueue(lambda: None)


def submit(queue: ShardQueue, index: int) -> "Future[ShardResult]":
    return queue.submit(key(index), shard(index))


def test_shards_are_taken_in_order_and_their_results_handed_out(queue: ShardQueue) -> None:
    futures = [submit(queue, index) for index in (3, 1)]
    assert [queue.take(), queue.take(), queue.take()] == [(key(3), shard(3)), (key(1), shard(1)), None]
    assert queue.started(key(1), 5)
    queue.finished(key(1), 2)
    assert futures[1].result() == ShardResult(index=1, num_rollouts=16, num_errors=2, num_resumed=5)
    assert queue.busy
    queue.finished(key(3), 0)
    assert futures[0].result().num_resumed == 0
    assert not queue.busy


def test_a_failed_shard_may_be_queued_again_and_counts_its_first_journal_only(queue: ShardQueue) -> None:
    first = submit(queue, 0)
    queue.take()
    assert queue.started(key(0), 4)
    queue.failed([key(0)], EngineCrashed("boom"))
    with pytest.raises(EngineCrashed):
        first.result()
    second = submit(queue, 0)
    assert queue.take() == (key(0), shard(0))
    # rollouts that this session itself has generated do not count as resumed
    assert not queue.started(key(0), 11)
    queue.finished(key(0), 0)
    assert second.result().num_resumed == 4
    assert queue.num_resumed == 4


def test_closing_raises_the_error_in_all_threads_that_wait_now_or_later(queue: ShardQueue) -> None:
    queued, taken = submit(queue, 0), submit(queue, 1)
    queue.take()
    queue.close(StorageError("disk full"))
    queue.close(EngineCrashed("closed later"))
    for future in (queued, taken):
        with pytest.raises(StorageError):
            future.result()
    with pytest.raises(StorageError):
        submit(queue, 2)
    assert queue.take() is None
    assert not queue.busy
