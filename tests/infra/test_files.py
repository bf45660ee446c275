"""The files for deployments: their syntax is right, and whatever they name exists. No container is started."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands.cli import parse
from flows.server.shipped_files import shipped_file
from profiles.load import profile_names
from tasks.node.gpu_lock import DEFAULT_DIRECTORY

INFRA = Path(__file__).parents[2] / "infra"
ROOT = INFRA.parent


def read_yaml(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text(encoding="utf-8"))


def test_every_deployment_names_a_flow_and_a_profile_that_exist() -> None:
    content = read_yaml("prefect.yaml")
    assert content["prefect-version"] == metadata.version("prefect")
    for deployment in content["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        assert re.search(rf"^def {name}\(", (ROOT / f"{module.replace('.', '/')}.py").read_text(), re.MULTILINE)
        assert deployment["parameters"]["profile"] in ("auto", *profile_names())
        assert deployment["enforce_parameter_schema"] is True
    [step] = content["pull"]
    module, _, name = next(iter(step)).rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_wheel_has_the_files_that_commands_read() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in ("prefect.yaml", "automations.yaml"):
        assert f"infra/{name}" in wheel["only-include"]
        # in a checkout the package has none of its own
        assert shipped_file(name) == INFRA / name
    assert wheel["sources"] == {"infra": "flows/infra"}


def test_no_file_names_a_home_directory() -> None:
    for file in INFRA.rglob("*"):
        if file.is_file() and file.suffix not in {".png", ".pyc"}:
            assert not re.search(r"/(home|Users|root)/", file.read_text(encoding="utf-8")), file


def test_yamllint_finds_nothing() -> None:
    settings = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
    checked = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-d", settings, str(INFRA)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_service_of_the_compose_file_is_complete() -> None:
    content = read_yaml("compose.yaml")
    services = content["services"]
    assert set(services) == {"postgres", "prefect", "s3", "bucket", "worker", "ray-head", "ray-node-0", "ray-node-1"}
    for name, service in services.items():
        # an image that several services share is built once
        assert ("image" in service) != ("build" in service) or service["image"] == "rollout-harvest:latest", name
        for other, condition in service.get("depends_on", {}).items():
            assert other in services
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source.startswith("/") or source in content["volumes"]
        for value in service.get("environment", {}).values():
            assert isinstance(value, str), "YAML would make another type of it"
    assert metadata.version("prefect") in services["prefect"]["image"]
    for build in [service["build"] for service in services.values() if "build" in service]:
        assert (INFRA / build["context"] / build["dockerfile"]).is_file()


UNITS = sorted((INFRA / "systemd").glob("*.service"))


def test_all_containers_and_services_share_one_directory_of_gpu_locks() -> None:
    assert "HARVEST_LOCK_DIR" not in "".join(
        path.read_text(encoding="utf-8") for path in INFRA.rglob("*") if path.suffix in (".yaml", ".service", ".json")
    )
    for path in UNITS:
        [unit] = re.findall(r"^RuntimeDirectory=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert Path("/run") / unit == DEFAULT_DIRECTORY
    on_gpus = [service for service in read_yaml("compose.yaml")["services"].values() if "deploy" in service]
    for service in on_gpus:
        assert f"{DEFAULT_DIRECTORY.parent}:{DEFAULT_DIRECTORY.parent}" in service["volumes"]
    assert len(on_gpus) == 3


def test_what_engines_compile_outlives_the_container_and_the_service() -> None:
    image = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    (caches,) = re.findall(r"HARVEST_CACHE_DIR=(\S+)", image)
    (volume,) = re.findall(r"^VOLUME (\S+)", image, re.MULTILINE)
    assert caches.startswith(f"{volume}/")
    for path in UNITS:
        unit = path.read_text(encoding="utf-8")
        (directory,) = re.findall(r"^CacheDirectory=(\S+)", unit, re.MULTILINE)
        assert f"Environment=HARVEST_CACHE_DIR=/var/cache/{directory}\n" in unit


def test_the_image_copies_what_exists_and_starts_a_command_that_exists() -> None:
    lines = (INFRA / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert {"flows", "tasks", "profiles", "pyproject.toml"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    [base] = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert base == f"vllm/vllm-openai:v{_pinned('vllm')}"
    # one Ray on machines and in containers
    assert "grep '^ray==' /opt/rollout-harvest/infra/requirements/gpu.txt" in "\n".join(lines)
    [command] = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    assert command[0] == "harvest"
    parse(command[1:])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint is not installed; make setup brings it"
    checked = subprocess.run([hadolint, str(INFRA / "Dockerfile")], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_the_unit(tmp_path: Path, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    [start] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *arguments = shlex.split(start.removesuffix("\\").replace("%H", "node"))
    assert Path(program).parent == Path("/opt/rollout-harvest/.venv/bin")
    if Path(program).name == "harvest":
        parse(arguments)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # systemd-analyze wants an executable that exists
    unit = tmp_path / path.name
    unit.write_text(text.replace(program, sys.executable), encoding="utf-8")
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert str(unit) not in checked.stderr, checked.stderr


def test_all_services_of_a_machine_share_the_file_of_its_cluster() -> None:
    for path in UNITS:
        assert re.search(r"^EnvironmentFile=-?/etc/rollout-harvest/ray.env$", path.read_text(), re.MULTILINE), path


def test_the_kubernetes_template_takes_a_gpu_job_with_shared_memory() -> None:
    template = json.loads((INFRA / "kubernetes" / "base-job-template.json").read_text(encoding="utf-8"))
    variables = template["variables"]["properties"]
    text = json.dumps(template["job_configuration"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", text))
    assert used == set(variables)
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "{{ gpu_product }}"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert set(mounts.values()) == set(volumes)


def _pinned(package: str) -> str:
    text = (INFRA / "requirements" / "gpu.txt").read_text(encoding="utf-8")
    [version] = re.findall(rf"^{package}==([\w.]+)", text, re.MULTILINE)
    return str(version)
