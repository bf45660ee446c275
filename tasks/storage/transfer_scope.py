"""Which stores a flow has open, so that all of them can be stopped at once, whichever of its threads use them."""

import contextvars
import threading
import weakref
from types import TracebackType
from typing import Protocol, Self, TypeVar

from tasks.storage.transfer_errors import TransferStoppedError


class Stoppable(Protocol):
    """What ``tasks.storage.object_store`` calls a store, as far as it matters here."""

    def stop(self) -> None: ...


Store = TypeVar("Store", bound=Stoppable)


class TransferScope:
    """Use as a context manager around all that opens stores, also in threads that are given a copy of the context.

    Left by a signal or an interrupt, it stops the stores that are open, and those that a thread opens even later.
    """

    def __init__(self) -> None:
        self._stores: weakref.WeakSet[Stoppable] = weakref.WeakSet()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._token: contextvars.Token[TransferScope | None] | None = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        _current.reset(self._token)
        if error is not None and not isinstance(error, Exception):
            self.stop()

    def add(self, store: Stoppable) -> None:
        with self._lock:
            self._stores.add(store)
        if self._stopped.is_set():
            store.stop()

    def stop(self) -> None:
        """Make all transfers end with TransferStoppedError, and take back what they left half done."""
        self._stopped.set()
        with self._lock:
            stores = tuple(self._stores)
        for store in stores:
            store.stop()

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises TransferStoppedError as soon as transfers are to stop."""
        if self._stopped.wait(seconds):
            raise TransferStoppedError("a transfer that waited for another attempt was stopped")


_current: contextvars.ContextVar[TransferScope | None] = contextvars.ContextVar("transfers", default=None)


def add_to_scope(store: Store) -> Store:
    """``store``, which the scope of the calling thread stops with all others, where there is one."""
    if (scope := _current.get()) is not None:
        scope.add(store)
    return store


def wait_in_scope(seconds: float) -> None:
    """Wait so long. Raises TransferStoppedError as soon as the scope of the calling thread is stopped."""
    (_current.get() or TransferScope()).wait(seconds)
