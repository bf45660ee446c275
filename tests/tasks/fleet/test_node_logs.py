"""The logs of a node come to the run once, whatever an earlier worker left on the node."""

from pathlib import Path

import pytest

from tasks.fleet.node_logs import LogTails, add_logs


def test_a_log_comes_as_it_is_written_and_once(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    (there / "replica-0-001.log").write_text("of an earlier worker\n")
    tails = LogTails(there)
    assert tails.new() == {}
    for text in ("first\n", "second\n"):
        with (there / "replica-0-002.log").open("a") as log:
            log.write(text)
        add_logs(here, "gpu-7", tails.new())
    assert tails.new() == {}
    [path] = here.rglob("*.log")
    assert (path.parent.name, path.name, path.read_text()) == ("node-gpu-7", "replica-0-002.log", "first\nsecond\n")


@pytest.mark.parametrize(
    ("node", "name"), [("gpu-7", "node-gpu-7"), ("../../etc", "node-.._.._etc"), ("a b/c", "node-a_b_c")]
)
def test_no_name_of_a_node_or_a_file_leads_elsewhere(tmp_path: Path, node: str, name: str) -> None:
    add_logs(tmp_path, node, {"../x.log": b"1"})
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.log")] == [f"{name}/x.log"]
