"""The ledgers that this process has open, by name: all that a task run is given of one.

A ledger holds a filesystem and so a secret, and Prefect is free to log, hash or serialise what it passes to a task.
"""

from weakref import WeakValueDictionary

from tasks.fleet.ledger import Ledger

_open: WeakValueDictionary[str, Ledger] = WeakValueDictionary()


def name_of(ledger: Ledger) -> str:
    """The name under which ``ledger_named`` finds ``ledger``, for as long as its owner keeps it."""
    name = f"{ledger.store.url}#{ledger.owner}"
    _open[name] = ledger
    return name


def ledger_named(name: str) -> Ledger:
    return _open[name]
