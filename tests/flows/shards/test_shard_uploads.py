"""Shards are uploaded a few at a time, and an outage leaves them to the end of the run."""

from collections.abc import Callable
from typing import Any

import pytest
from prefect.states import Completed

from flows.shards.pending_tasks import PendingTasks
from flows.shards.shard_uploads import MAX_CONCURRENT_UPLOADS as LIMIT
from flows.shards.shard_uploads import ShardUploads
from tasks.errors import UploadError
from tasks.plan.shards import Shard

OUTAGE = UploadError("no answer", retryable=True)
SCORED: Any = Completed()


class Future:
    """An upload that ends when the test says so."""

    def __init__(self) -> None:
        self._calls: list[Callable[[Any], None]] = []
        self._error: UploadError | None = None

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self._calls.append(call)

    def end(self, error: UploadError | None = None) -> None:
        self._error = error
        for call in self._calls:
            call(self)

    def result(self) -> None:
        if self._error is not None:
            raise self._error


class Scene:
    def __init__(self, run_id: str | None = None) -> None:
        self.submitted: dict[int, Future] = {}
        self.warnings: list[str] = []
        self.pending = PendingTasks(lambda: None)
        self.uploads = ShardUploads(self.pending, self._submit, self.warnings.append, run_id=run_id)

    def _submit(self, shard: Shard, scored: Any) -> Any:
        assert scored is SCORED
        return self.submitted.setdefault(shard.index, Future())

    def add(self, *indices: int) -> None:
        for index in indices:
            self.uploads.add(Shard(index=index, num_questions=1, num_rollouts=8), SCORED)

    def end(self, index: int, error: UploadError | None = None) -> None:
        self.submitted[index].end(error)
        self.pending.run_callbacks()


def test_a_few_shards_are_uploaded_at_a_time_in_order() -> None:
    scene = Scene()
    scene.add(*range(LIMIT + 3))
    assert list(scene.submitted) == list(range(LIMIT))
    scene.end(1)
    scene.end(0)
    assert list(scene.submitted) == list(range(LIMIT + 2))
    assert len(scene.pending) == LIMIT
    assert scene.warnings == []


def test_an_outage_leaves_the_waiting_shards_to_the_end_too() -> None:
    scene = Scene()
    scene.add(*range(LIMIT + 2))
    scene.end(2, OUTAGE)
    scene.end(0, OUTAGE)
    assert scene.warnings == [
        f"shards 2, {LIMIT}, {LIMIT + 1} go up at the end of the run, as the upload failed now: no answer",
        "shard 0 goes up at the end of the run, for the same reason",
    ]
    assert list(scene.submitted) == list(range(LIMIT)), "none of those was tried for the same outage"


def test_of_several_runs_the_message_names_the_one() -> None:
    scene = Scene("step-900")
    scene.add(3)
    scene.end(3, OUTAGE)
    assert scene.warnings == ["shard 3 of step-900 goes up at the end of the run, as the upload failed now: no answer"]


def test_shards_added_after_an_outage_are_uploaded() -> None:
    scene = Scene()
    scene.add(0)
    scene.end(0, OUTAGE)
    scene.add(1, 2)
    scene.end(1)
    scene.end(2, OUTAGE)
    assert [text.partition(" ")[2].partition(" ")[0] for text in scene.warnings] == ["0", "2"]
    assert scene.warnings[1].endswith("as the upload failed now: no answer"), "another outage is explained again"
    assert len(scene.pending) == 0


def test_an_error_that_is_no_outage_ends_the_flow() -> None:
    scene = Scene()
    scene.add(0)
    with pytest.raises(UploadError, match="access denied"):
        scene.end(0, UploadError("access denied"))


def test_without_a_destination_nothing_is_submitted() -> None:
    scene = Scene()
    ShardUploads(scene.pending, None, scene.warnings.append).add(
        Shard(index=0, num_questions=1, num_rollouts=8), SCORED
    )
    assert (len(scene.pending), scene.warnings) == (0, [])
