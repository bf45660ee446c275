"""A signal that ends a flow stops the transfers of its threads; other errors do not."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.storage.transfer_errors import TransferStoppedError
from tasks.storage.transfer_scope import TransferScope, add_to_scope, wait_in_scope
from tests.support.patience import HANG_SECONDS, SHORT_SECONDS, scaled, until


class Store:
    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize(
    ("error", "stopped"), [(None, False), (ValueError("x"), False), (KeyboardInterrupt(), True), (SystemExit(), True)]
)
def test_only_an_interrupt_or_exit_stops_transfers(error: BaseException | None, stopped: bool) -> None:
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


def test_stores_of_threads_are_stopped_also_those_opened_later() -> None:
    waiting = threading.Event()

    def work() -> tuple[Store, Store]:
        early = add_to_scope(Store())
        waiting.set()
        with pytest.raises(TransferStoppedError):
            wait_in_scope(scaled(HANG_SECONDS))
        return early, add_to_scope(Store())

    def interrupted() -> None:
        with TransferScope():
            working.append(pool.submit(contextvars.copy_context().run, work))
            until(waiting.is_set, "a thread that waits")
            raise KeyboardInterrupt

    with ThreadPoolExecutor() as pool:
        working = []  # type: ignore[var-annotated]
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        early, late = working[0].result()
    assert (early.stopped, late.stopped) == (True, True)


def test_a_wait_without_a_scope_lasts_as_long_as_it_should() -> None:
    long = threading.Thread(target=wait_in_scope, args=[scaled(HANG_SECONDS)], daemon=True)
    long.start()
    wait_in_scope(SHORT_SECONDS)
    assert long.is_alive()
