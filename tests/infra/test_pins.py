"""The pins: every kind has all that pyproject.toml asks for, and both kinds have the same versions."""

import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.harvest_command import ROOT

KINDS = ("cpu", "gpu")
NOT_PINNED = ("wandb",)
"""Extras that no set-up installs."""
OF_A_KIND = {"apache-tvm-ffi", "setuptools", "triton"}
"""Packages whose version the kind of vLLM decides."""


def pins(kind: str) -> dict[str, str]:
    lines = (ROOT / "infra" / "requirements" / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pinned}


def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(kind: str) -> list[Requirement]:
    extras = project()["optional-dependencies"]
    pinned = [name for name in extras if name not in (*KINDS, *NOT_PINNED)]
    wanted = [*project()["dependencies"], *(each for name in pinned for each in extras[name])]
    return [Requirement(text) for text in (*wanted, *extras[kind])]


@pytest.mark.parametrize("kind", KINDS)
def test_the_pins_are_what_the_project_asks_for(kind: str) -> None:
    pinned = pins(kind)
    for requirement in requirements(kind):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert version in requirement.specifier, requirement


def test_both_kinds_have_the_same_versions() -> None:
    cpu, gpu = map(pins, KINDS)
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} <= OF_A_KIND


def test_every_list_has_one_version_of_ray() -> None:
    extras = project()["optional-dependencies"]
    assert set(extras["ray"]) <= set(extras["dev"])
    measured = (ROOT / "infra/gpu-bench/requirements-ray.txt").read_text(encoding="utf-8").split()
    assert f"ray=={pins('gpu')['ray']}" in measured
