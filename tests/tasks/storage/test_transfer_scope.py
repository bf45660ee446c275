"""A flow that is ended by a signal stops what its threads transfer, and nothing else stops it."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.storage.transfer_errors import TransferStoppedError
from tasks.storage.transfer_scope import TransferScope, add_to_scope, wait_in_scope


class Store:
    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize(
    ("error", "stopped"), [(None, False), (ValueError("x"), False), (KeyboardInterrupt(), True), (SystemExit(), True)]
)
def test_only_what_ends_the_process_stops_transfers(error: BaseException | None, stopped: bool) -> None:
    outside, inside = add_to_scope(Store()), Store()

    def work() -> None:
        with TransferScope():
            add_to_scope(inside)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert (inside.stopped, outside.stopped) == (stopped, False)


def test_threads_stop_too_also_where_they_open_a_store_later() -> None:
    waiting = threading.Event()

    def work() -> tuple[Store, Store]:
        early = add_to_scope(Store())
        waiting.set()
        with pytest.raises(TransferStoppedError):
            wait_in_scope(60)
        return early, add_to_scope(Store())

    def interrupted() -> None:
        with TransferScope():
            working.append(pool.submit(contextvars.copy_context().run, work))
            assert waiting.wait(20)
            raise KeyboardInterrupt

    with ThreadPoolExecutor() as pool:
        working = []  # type: ignore[var-annotated]
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        early, late = working[0].result(timeout=20)
    assert (early.stopped, late.stopped) == (True, True)


def test_without_a_scope_a_wait_is_a_wait() -> None:
    wait_in_scope(0.01)
