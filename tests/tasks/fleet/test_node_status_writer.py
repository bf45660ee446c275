"""What a node tells of itself while it works, and when it ends."""

from pathlib import Path

from tasks.fleet.ledger import Ledger
from tasks.fleet.node_status import NodeStatus, read_statuses
from tasks.fleet.node_status_writer import NodeStatusWriter
from tasks.storage.destination import open_store
from tests.support.patience import until

LEASE = 0.3


def test_a_node_that_waits_before_it_generates_gives_signs_of_life_and_its_last_status_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))

    def status() -> NodeStatus:
        [found] = read_statuses(store, ["a"])
        return found

    with NodeStatusWriter(Ledger(store, owner="a", node="a", lease_s=LEASE), node="a", attempt="", logs=""):
        until(lambda: status().beat > 2, "signs of life")
        assert status().state == "starting"
    assert status().state == "ended"
