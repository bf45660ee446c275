"""What is no cluster is refused in one line, before anything is written."""

import sys
from pathlib import Path

import pytest

from tests.support.harvest_command import harvest_here

pytest.importorskip("ray")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nodes=2", "--baseline=auto"], "baseline is auto, which is generated where the collection runs"),
        (["--ray=ray://head:10001"], "an address with ray:// is not taken), auto for the"),
        (["--ray=head"], "ray is 'head'. Give HOST:PORT"),
        (["--ray=127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1: Connection refused. Start one with ray start"),
        (["--ray=head:99999"], "ray is 'head:99999'. Give HOST:PORT"),
        (["--ray="], "ray"),
        (["--nodes=0"], "nodes"),
        (["--nodes=-1"], "nodes"),
        (["--nodes=1000"], "nodes"),
        (["--nodes=2", "--profile=auto"], "profile auto is chosen by the GPUs of the node that collects"),
    ],
)
def test_nodes_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    refused(tmp_path, capsys, options, told)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "ray is 'ray://head:10001'"),
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
@pytest.mark.parametrize("options", [["--nodes=2"], ["--ray=auto"]])
def test_the_variable_of_ray_is_an_address_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    told: str,
    options: list[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused(tmp_path, capsys, options, told)


def test_ray_is_asked_for_where_it_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as where the import finds nothing
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(tmp_path, capsys, ["--nodes=2"], "Install it: pip install 'rollout-harvest[ray]'")


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str) -> None:
    given = ["--questions=2", "--profile=cpu-demo", f"--runs-dir={tmp_path / 'runs'}", *options]
    assert harvest_here("run", *given) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()
