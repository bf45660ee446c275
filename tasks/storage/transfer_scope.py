"""Collects the stores that a flow has open, so that a signal can stop the transfers of all its threads at once."""

import contextvars
import threading
import weakref
from types import TracebackType
from typing import Protocol, Self, TypeVar

from tasks.storage.transfer_errors import TransferStoppedError


class Stoppable(Protocol):
    """The part of ``ObjectStore`` that a scope needs."""

    def stop(self) -> None: ...


Store = TypeVar("Store", bound=Stoppable)


class TransferScope:
    """A context manager around the code that opens stores, also in threads that run in a copy of the context.

    When a signal or an interrupt ends the block, it stops the stores that are open and those opened later.
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
        """Stop ``store`` when the scope is stopped, or now if the scope is stopped already."""
        with self._lock:
            self._stores.add(store)
        if self._stopped.is_set():
            store.stop()

    def stop(self) -> None:
        """End all transfers with TransferStoppedError; they abort their multipart uploads."""
        self._stopped.set()
        with self._lock:
            stores = tuple(self._stores)
        for store in stores:
            store.stop()

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``. Raises TransferStoppedError as soon as the scope is stopped."""
        if self._stopped.wait(seconds):
            raise TransferStoppedError("waiting for another attempt was stopped")


_current: contextvars.ContextVar[TransferScope | None] = contextvars.ContextVar("transfers", default=None)


def add_to_scope(store: Store) -> Store:
    """Add ``store`` to the scope of the calling thread, if there is one; return ``store``."""
    if (scope := _current.get()) is not None:
        scope.add(store)
    return store


def wait_in_scope(seconds: float) -> None:
    """Wait ``seconds``. Raises TransferStoppedError as soon as the scope of the calling thread is stopped."""
    (_current.get() or TransferScope()).wait(seconds)
