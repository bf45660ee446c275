"""Keeps the ledgers that this process has open, by name. A task run gets only the name.

A ledger holds a filesystem and with it a secret, and Prefect may log, hash or serialise what it passes to a task.
"""

from weakref import WeakValueDictionary

from tasks.fleet.ledger import Ledger

_open: WeakValueDictionary[str, Ledger] = WeakValueDictionary()


def register_ledger(ledger: Ledger) -> str:
    """Return the name for ``find_ledger``. It is valid for as long as the caller keeps the ledger."""
    name = f"{ledger.store.url}#{ledger.owner}"
    _open[name] = ledger
    return name


def find_ledger(name: str) -> Ledger:
    return _open[name]
