"""``make setup`` with fake downloads: where it looks for packages, and when it installs nothing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PIP_CONF = """
[global]
find-links =
    /disk/wheels
    /disk/more
index-url = https://unused.example/simple
[install]
index-url = https://packages.example/simple
extra-index-url = https://one.example/simple https://two.example/simple
"""
INDEXES = [
    *("--index-url", "https://packages.example/simple"),
    *("--extra-index-url", "https://one.example/simple", "--extra-index-url", "https://two.example/simple"),
]


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, ["--find-links", "/disk/wheels", "--find-links", "/disk/more", *INDEXES]),
        ({"PIP_FIND_LINKS": "/set/wheels"}, ["--find-links", "/set/wheels", *INDEXES]),
        (
            {"PIP_INDEX_URL": "https://set.example/simple"},
            [
                *("--find-links", "/disk/wheels", "--find-links", "/disk/more"),
                *("--index-url", "https://set.example/simple", *INDEXES[2:]),
            ],
        ),
    ],
)
def test_packages_come_from_the_locations_that_pip_knows(
    tmp_path: Path, variables: dict[str, str], found: list[str]
) -> None:
    (tmp_path / "pip.conf").write_text(PIP_CONF)
    write_program(
        tmp_path / ".venv" / "bin" / "python", f'case "$*" in *" install "*) ;; *) exec "{sys.executable}" "$@" ;; esac'
    )
    write_program(tmp_path / ".venv" / "bin" / "uv", 'echo "$*" >> uv_calls')
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    subprocess.run(
        ["sh", str(ROOT / "infra" / "install.sh"), "gpu"],
        cwd=tmp_path,
        env={**inherited, **variables, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")},
        check=True,
    )
    packages, project = (tmp_path / "uv_calls").read_text().splitlines()
    assert packages.endswith(f"unsafe-best-match {' '.join(found)} -r infra/requirements/gpu.txt")
    assert project.endswith(" -e .")


class Checkout:
    """A directory with the Makefile. Its PYTHON makes empty environments; its install script only records its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        shutil.copy(ROOT / "Makefile", root)
        for name in ("pyproject.toml", "infra/requirements/cpu.txt", "infra/requirements/gpu.txt"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        write_program(root / "infra" / "install.sh", "touch .venv/$1-package; echo $1 >> installed; test ! -e broken")
        write_program(root / "python", '[ "$1" != -m ] || { mkdir -p $3/bin && cp "$0" $3/bin/pip; }')

    def make(self, target: str) -> int:
        command = ["make", "--silent", target, f"PYTHON={self.root / 'python'}"]
        return subprocess.run(command, cwd=self.root, capture_output=True, check=False).returncode

    def break_off(self, target: str) -> None:
        (self.root / "broken").touch()
        assert self.make(target) != 0
        (self.root / "broken").unlink()

    @property
    def installed(self) -> list[str]:
        return (self.root / "installed").read_text().split()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(("target", "kind"), [("setup", "cpu"), ("setup-gpu", "gpu")])
def test_packages_are_installed_once_until_their_pins_change(checkout: Checkout, target: str, kind: str) -> None:
    for _ in range(2):
        assert checkout.make(target) == 0
        assert checkout.make("setup") == 0
    assert checkout.installed == [kind]
    pins = checkout.root / "infra" / "requirements" / f"{kind}.txt"
    os.utime(pins, (later := time.time() + 60, later))
    assert checkout.make("setup") == 0
    assert checkout.installed == [kind, kind]


@pytest.mark.parametrize("is_finished", [True, False])
def test_setup_for_gpus_removes_the_packages_for_the_cpu(checkout: Checkout, is_finished: bool) -> None:
    if is_finished:
        checkout.make("setup")
    else:
        checkout.break_off("setup")
    assert checkout.make("setup-gpu") == 0
    assert checkout.installed == ["cpu", "gpu"]
    assert sorted(path.name for path in checkout.venv.glob("*-package")) == ["gpu-package"]


def test_a_half_finished_environment_for_gpus_is_completed(checkout: Checkout) -> None:
    checkout.break_off("setup-gpu")
    (checkout.venv / "kept").touch()
    assert checkout.make("setup") == 0
    assert checkout.installed == ["gpu", "gpu"]
    assert (checkout.venv / "kept").exists()


def test_an_environment_that_make_did_not_make_is_not_removed(checkout: Checkout) -> None:
    (checkout.venv / "own-package").mkdir(parents=True)
    assert checkout.make("setup-gpu") == 0
    assert (checkout.venv / "own-package").exists()
