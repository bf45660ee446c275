"""Nodes that share out a run's shards: threads on one ledger, as on different machines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError, HarvestError, UploadError
from tasks.fleet.ledger import RUN, Ledger
from tasks.fleet.shard_supply import ShardSupply
from tasks.storage.destination import open_store
from tasks.storage.object_store import ObjectStore
from tasks.time_limits import FACTOR_VARIABLE
from tests.support.patience import SHORT_SECONDS, until

SHARDS = list(range(12))
LEASE_S = 12 * SHORT_SECONDS
"""Nodes look at the ledger and renew their claims several times in this time. Claims age by ``Clock`` alone."""


class Clock:
    """Seconds that pass when a test says so: a busy machine makes no claim expire."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Failing:
    """A store that cannot be listed the first three times."""

    def __init__(self, store: ObjectStore, error: HarvestError) -> None:
        self._store, self._error, self._failures = store, error, 3

    def listing(self) -> Any:
        if self._failures:
            self._failures -= 1
            raise self._error
        return self._store.listing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class CountingLedger(Ledger):
    """Counts how often its claims were renewed."""

    renewals = 0

    def renew(self) -> list[int]:
        lost = super().renew()
        self.renewals += 1
        return lost


class Node:
    """One node that publishes what it takes at once."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        name: str,
        place: int,
        first: tuple[int, ...] = (),
        fails: HarvestError | None = None,
    ) -> None:
        store: Any = open_store(str(folder / "shared"))
        if fails is not None:
            store = Failing(store, fails)
        self.ledger = CountingLedger(store, owner=name, node=name, lease_s=LEASE_S, clock=clock)
        self.told: list[str] = []
        self.made: list[int] = []
        self._file = folder / "rollouts"
        self._file.write_bytes(b"rows")
        self.supply = ShardSupply(
            self.ledger,
            SHARDS,
            first=first,
            nodes=2,
            place=place,
            tell=self.told.append,
            wake=lambda: None,
        )

    def work(self) -> None:
        self.supply.want(2)
        for index in self.supply.take():
            self.made.append(index)
            self.ledger.publish(index, self._file, "f")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv(FACTOR_VARIABLE, "1")
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Callable[..., Node]:
    open_store(str(tmp_path / "shared")).put_bytes(RUN, b"{}", "")
    return lambda *arguments, **options: Node(tmp_path, clock, *arguments, **options)


def work_until(condition: Callable[[], object], *nodes: Node) -> None:
    """Let the nodes publish what they take, again and again."""

    def step() -> object:
        for node in nodes:
            node.work()
        return condition()

    until(step, "the work of the nodes")


def test_two_nodes_make_every_shard_once_each_from_its_own_place(node: Callable[..., Node]) -> None:
    a, b = node("a", 0), node("b", 1)
    with a.supply, b.supply:
        for each in (a, b):
            each.supply.want(2)
        until(lambda: a.ledger.held and b.ledger.held, "a claim by each node")
        work_until(lambda: a.supply.over and b.supply.over, a, b)
    assert sorted(a.made + b.made) == SHARDS
    assert (a.made[0], b.made[0]) == (0, 6)
    assert a.supply.num_finished == len(SHARDS)


def test_a_node_begins_with_what_it_has_begun(node: Callable[..., Node]) -> None:
    a = node("a", 0, first=(7, 3))
    with a.supply:
        work_until(lambda: len(a.made) >= 2, a)
    assert a.made[:2] == [7, 3]


def test_a_silent_nodes_shards_are_taken_over_and_a_working_nodes_are_not(
    node: Callable[..., Node], clock: Clock
) -> None:
    lost, slow, quick = node("lost", 0), node("slow", 1), node("quick", 0)
    lost.ledger.claim([0, 1], 2)
    with slow.supply:
        slow.supply.want(1)
        until(lambda: slow.ledger.held, "a claim")
        held = slow.ledger.held
        with quick.supply:
            while len(quick.made) < len(SHARDS) - 1:
                work_until(lambda before=slow.ledger.renewals: slow.ledger.renewals > before, quick)
                # two such steps are less than a lease, and the slow node renews its claim between any two
                clock.now += 0.4 * LEASE_S
        assert slow.ledger.held == held
    assert {0, 1} <= set(quick.made)
    assert sum("taken over" in text for text in quick.told) == 2


def test_a_run_that_is_taken_away_is_over(node: Callable[..., Node]) -> None:
    a = node("a", 0)
    with a.supply:
        work_until(lambda: a.made, a)
        a.ledger.close()
        until(lambda: a.supply.over, "the end of the run")


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        pytest.param(UploadError("away"), False, id="away for a while"),
        pytest.param(ConfigError("no such bucket"), True, id="not there at all"),
    ],
)
def test_a_storage_that_is_away_for_a_while_costs_nothing(
    node: Callable[..., Node], error: HarvestError, fatal: bool
) -> None:
    a = node("a", 0, fails=error)
    with a.supply:
        if fatal:
            with pytest.raises(ConfigError, match="no such bucket"):
                until(lambda: a.supply.over, "an error")
        else:
            work_until(lambda: a.supply.over, a)
    assert (sorted(a.made) == SHARDS) is not fatal
