"""What is no cluster is refused in one line, before anything is written."""

from pathlib import Path

import pytest

from tests.support.harvest_command import harvest_here

pytest.importorskip("ray")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nodes=2", "--baseline=auto"], "baseline is auto, which is generated where the collection runs"),
        (["--ray=ray://head:10001"], "ray is 'ray://head:10001'. Give HOST:PORT of the cluster's head, auto"),
        (["--ray=head"], "ray is 'head'. Give HOST:PORT"),
        (["--ray=127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1: Connection refused. Start one with ray start"),
        (["--nodes=65"], "nodes"),
        (["--nodes=2", "--profile=auto"], "profile auto is chosen by the GPUs of the node that collects"),
    ],
)
def test_nodes_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    given = ["--questions=2", "--profile=cpu-demo", f"--runs-dir={tmp_path / 'runs'}", *options]
    assert harvest_here("run", *given) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()
