"""Who may generate which shard: claims with leases, on a directory and on an S3 server."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UploadError
from tasks.fleet.ledger import RUN, Ledger, finished_key, read_object, rollouts_key
from tasks.storage.destination import open_store
from tasks.storage.filesystems import TransferSettings
from tasks.storage.object_store import ObjectStore
from tasks.time_limits import FACTOR_VARIABLE
from tests.support.patience import HANG_SECONDS, scaled
from tests.support.s3_servers import Bucket

LEASE = 60.0
SHARDS = list(range(6))

Join = Callable[..., Ledger]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class InStep:
    """A store whose calls each wait for one of the other node's: both nodes take the same steps at the same time."""

    def __init__(self, store: ObjectStore, together: threading.Barrier) -> None:
        self._store = store
        self._together = together

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._together.wait()
            return getattr(self._store, name)(*arguments)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv(FACTOR_VARIABLE, "1")
    return Clock()


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "shared" / "run")
    bucket: Bucket = request.getfixturevalue("bucket")
    return f"{bucket.url}/run"


@pytest.fixture
def join(url: str, clock: Clock) -> Join:
    """A further node of the same ledger."""

    def join(owner: str, place: str = "", in_step: threading.Barrier | None = None) -> Ledger:
        store: Any = open_store(url, TransferSettings(attempts=2, base_delay_s=0.01))
        if in_step is not None:
            store = InStep(store, in_step)
        return Ledger(store, owner=owner, node=owner, place=place or owner, lease_s=LEASE, clock=clock)

    return join


def test_a_claimed_shard_is_nobody_elses_until_it_is_released(join: Join) -> None:
    a, b = join("a"), join("b")
    assert sorted(a.claim(SHARDS, 2)) == [0, 1]
    assert sorted(b.claim(SHARDS, 9)) == [2, 3, 4, 5]
    assert a.claim(SHARDS, 9) == {}
    b.release(4)
    assert sorted(a.claim(SHARDS, 9)) == [4]
    assert (a.held, b.held) == ([0, 1, 4], [2, 3, 5])


@pytest.mark.parametrize(
    ("passes", "renewed", "taken"),
    [
        pytest.param([0.9], False, False, id="within the lease"),
        pytest.param([0.6, 0.6], False, True, id="not renewed"),
        pytest.param([0.6, 0.6, 0.6], True, False, id="renewed"),
    ],
)
def test_a_claim_lives_as_long_as_it_is_renewed(
    join: Join, clock: Clock, passes: list[float], renewed: bool, taken: bool
) -> None:
    a, b = join("a"), join("b")
    a.claim([0], 1)
    b.look()
    for share in passes:
        clock.now += share * LEASE
        if renewed:
            assert a.renew() == []
        b.look()
    assert (b.claim([0], 1) == {0: frozenset({"a"})}) is taken


def test_a_node_that_joins_late_waits_a_whole_lease_by_its_own_clock(join: Join, clock: Clock) -> None:
    join("a").claim([0], 1)
    clock.now += 100 * LEASE
    b = join("b")
    assert b.claim([0], 1) == {}
    clock.now += 1.1 * LEASE
    assert b.claim([0], 1) == {0: frozenset({"a"})}


def test_who_was_away_for_too_long_learns_what_it_has_lost(join: Join, clock: Clock) -> None:
    a, b = join("a"), join("b")
    a.claim([0, 1], 2)
    b.look()
    clock.now += 1.1 * LEASE
    assert sorted(b.claim([0], 1)) == [0]
    assert a.renew() == [0]
    assert a.held == [1]
    # it leaves the new owner's claim alone
    assert b.renew() == []
    assert join("c").look().claims == {0: {"b"}, 1: {"a"}}


def test_two_who_take_every_step_at_the_same_moment_both_step_back(join: Join) -> None:
    together = threading.Barrier(2, timeout=scaled(HANG_SECONDS))
    nodes = [join("a", in_step=together), join("b", in_step=together)]
    with ThreadPoolExecutor(2) as threads:
        claimed = list(threads.map(lambda node: node.claim([0], 1), nodes))
    assert claimed == [{}, {}]
    assert join("c").look().claims == {}


def test_two_who_want_the_same_shards_never_both_have_one(join: Join) -> None:
    nodes = [join("a"), join("b")]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            claimed = list(threads.map(lambda node: set(node.claim(SHARDS, 2)), nodes))
            assert not claimed[0] & claimed[1]
            assert {index for index, owners in join("c").look().claims.items() if owners} == claimed[0] | claimed[1]
            for node in nodes:
                for index in node.held:
                    node.release(index)


def test_a_finished_shard_is_never_claimed_again_unless_it_is_reopened(join: Join, tmp_path: Path) -> None:
    a, b = join("a"), join("b")
    a.claim([3], 1)
    (tmp_path / "rollouts").write_bytes(b"rows")
    assert a.publish(3, tmp_path / "rollouts", "f")
    assert a.held == []
    view = b.look()
    assert (view.finished, view.claims) == ({3}, {})
    assert b.claim([3], 1) == {}
    b.reopen(3)
    assert sorted(b.claim([3], 1)) == [3]


def test_a_shard_that_is_generated_twice_is_published_once(join: Join, clock: Clock, tmp_path: Path) -> None:
    a, b = join("a"), join("b")
    a.claim([0], 1)
    b.look()
    clock.now += 2 * LEASE
    b.claim([0], 1)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(f"rows of {name}".encode())
    assert b.publish(0, tmp_path / "b", "f")
    assert not a.publish(0, tmp_path / "a", "f")
    assert a.store.read(rollouts_key(0)) == b"rows of b"
    assert read_object(a.store, finished_key(0))["owner"] == "b"
    assert join("c").look().claims == {}


@pytest.mark.parametrize(
    ("drop", "dropped"),
    [
        pytest.param(lambda node: node.drop_from("a"), [0, 1], id="of an owner"),
        pytest.param(lambda node: node.drop_here(), [2], id="of a place"),
    ],
)
def test_claims_of_those_who_are_known_to_be_gone_are_free_at_once(
    join: Join, drop: Callable[[Ledger], list[int]], dropped: list[int]
) -> None:
    join("a").claim([0, 1], 2)
    join("b", place="disk-1").claim([2], 1)
    node = join("c", place="disk-1")
    assert drop(node) == dropped
    assert sorted(node.claim(SHARDS, 6)) == sorted({*dropped, 3, 4, 5})


def test_a_closed_ledger_is_empty_and_says_so(join: Join) -> None:
    a = join("a")
    a.store.put_bytes(RUN, b"{}", "")
    a.claim([0], 1)
    assert a.look().is_open
    a.close()
    assert not a.look().is_open
    assert a.store.listing() == {}


def test_a_storage_that_is_away_is_an_error_with_a_remedy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = open_store(bucket.url, TransferSettings(attempts=1, connect_timeout_s=1))
    with pytest.raises(UploadError, match="check the endpoint"):
        Ledger(store, owner="a", node="a", lease_s=LEASE).claim([0], 1)


def test_the_factor_of_time_limits_lengthens_the_lease_of_others(
    join: Join, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FACTOR_VARIABLE, "3")
    a, b = join("a"), join("b")
    a.claim([0], 1)
    b.look()
    clock.now += 2.9 * LEASE
    assert b.claim([0], 1) == {}
    clock.now += 0.2 * LEASE
    assert b.claim([0], 1) == {0: frozenset({"a"})}
