"""The files that start Ray: the installed Ray takes each command, and all agree on ports, token and versions."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flows.commands.cli import parse
from tests.infra.test_install import write_program
from tests.support.harvest_command import ROOT

pytest.importorskip("ray")
# of what Ray's command line imports
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")

INFRA = ROOT / "infra"
PORTS = {
    "port": 6379,
    "node_manager_port": 6380,
    "object_manager_port": 6381,
    "min_worker_port": 10002,
    "max_worker_port": 19999,
}
"""What infra/README.md has opened between the machines. Containers and pods reach each other at all ports."""


def read_yaml(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text(encoding="utf-8"))


def commands_on_machines() -> Iterator[tuple[str, str]]:
    """Each ``ray start`` of machines, and what is set for it."""
    for name in ("ray-head", "ray-node"):
        unit = (INFRA / "systemd" / f"{name}.service").read_text(encoding="utf-8").replace("\\\n", " ")
        [start] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        yield start, unit
    cluster = read_yaml("ray/cluster.yaml")
    for kind in ("head", "worker"):
        last = cluster[f"{kind}_start_ray_commands"][-1]
        yield last, last


def commands_in_containers() -> Iterator[tuple[str, str]]:
    for service in read_yaml("compose.yaml")["services"].values():
        if "ray start" in service.get("command", ""):
            yield service["command"], "".join(f"{key}={value} " for key, value in service["environment"].items())


def options_of(command: str) -> dict[str, Any]:
    """The options of a ``ray start``, as Ray's own parser reads them. Raises what click says of others."""
    from ray.scripts.scripts import start

    words = command.replace("$RAY_OPTIONS", "").replace("${RAY_HEAD}", "10.0.0.1").partition("ray start ")[2]
    parsed: dict[str, Any] = start.make_context("start", shlex.split(words)).params
    return parsed


@pytest.mark.parametrize(("command", "settings"), [*commands_on_machines(), *commands_in_containers()])
def test_every_ray_start_is_right_and_has_a_token(command: str, settings: str) -> None:
    options = options_of(command)
    assert options["head"] != bool(options["address"])
    assert options["disable_usage_stats"]
    assert options["num_cpus"] is not None, "Ray would start a process per processor"
    if options["head"]:
        assert options["dashboard_host"] == "127.0.0.1"
    else:
        assert options["address"].endswith(":6379")
    assert "RAY_AUTH_MODE=token" in settings
    assert "RAY_memory_monitor_refresh_ms=0" in settings
    # whoever lists processes sees arguments
    assert "TOKEN" not in command.replace("RAY_AUTH_MODE=token", "")


def commands_of_the_guide() -> list[str]:
    """The lines of the block that makes a cluster of two machines, each with its options."""
    guide = (INFRA / "README.md").read_text(encoding="utf-8")
    [block] = [block for block in re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL) if "ssh " in block]
    [options] = re.findall(r'OPTIONS="(.*)"', block)
    return [line.replace("$OPTIONS", options).replace('"', "") for line in block.splitlines()]


def test_ten_lines_make_a_cluster_of_two_machines() -> None:
    lines = commands_of_the_guide()
    assert len(lines) == 10
    head, node = (options_of(line) for line in lines if "ray start" in line)
    assert (head["head"], node["address"]) == (True, f"{head['node_ip_address']}:6379")
    for line in [line for line in lines if "export RAY" in line]:
        assert "RAY_AUTH_MODE=token RAY_memory_monitor_refresh_ms=0" in line
    # the environment of this machine is not that of the other
    assert [line.startswith("ssh node2") for line in lines if "export RAY" in line] == [False, True]
    [collection] = [shlex.split(line) for line in lines if "harvest run" in line]
    asked = parse(collection[1:]).params
    assert (asked["nodes"], asked["ray"]) == (2, "auto")


@pytest.mark.parametrize(
    "command",
    [*(command for command, _ in commands_on_machines()), *(x for x in commands_of_the_guide() if "ray start" in x)],
)
def test_machines_use_the_ports_that_the_guide_opens(command: str) -> None:
    options = options_of(command)
    own = {name: port for name, port in PORTS.items() if name != "port" or options["head"]}
    assert {name: int(options[name] or PORTS["port"]) for name in own} == own
    guide = (INFRA / "README.md").read_text(encoding="utf-8")
    assert "6379 to 6381" in guide
    assert "10002 to 19999" in guide


def test_rays_launcher_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = read_yaml("ray/cluster.yaml")
    prepared = prepare_config(given)
    validate_config(prepared)
    assert prepared["max_workers"] == len(given["provider"]["worker_ips"])
    # Ray 2.60's second autoscaler takes the head, which has the type of the others here, for one of them
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert "RAY_enable_autoscaler_v2=0" in prepared["head_start_ray_commands"][-1]
    # Ray reads all files of a mount again and again
    assert set(prepared["file_mounts"]) == {"~/.ray/auth_token"}


def test_kuberay_takes_the_cluster_with_the_pinned_ray() -> None:
    cluster = read_yaml("kubernetes/ray-cluster.yaml")
    schema = json.loads((ROOT / "tests/data/raycluster_schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(cluster)
    spec = cluster["spec"]
    assert f"ray=={spec['rayVersion']}" in (INFRA / "requirements/gpu.txt").read_text(encoding="utf-8").split()
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        # KubeRay gives these to ray start
        assert options_of(f"ray start {_as_options(group['rayStartParams'])}")["num_cpus"] is not None
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
    [group] = spec["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"]
    assert {"name": "RAY_memory_monitor_refresh_ms", "value": "0"} in container["env"]


def _as_options(parameters: dict[str, str]) -> str:
    return " ".join(f"--{name}={value}" for name, value in parameters.items())


def job_template() -> Any:
    return json.loads((INFRA / "kubernetes/ray-job-template.json").read_text(encoding="utf-8"))


def test_jobs_join_the_cluster_of_the_file_without_giving_it_anything() -> None:
    template, cluster = job_template(), read_yaml("kubernetes/ray-cluster.yaml")
    variables = template["variables"]["properties"]
    assert set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"]))) == set(variables)
    name = cluster["metadata"]["name"]
    # KubeRay's names of the head's service and of the Secret that it makes
    assert variables["ray_head"]["default"] == f"{name}-head-svc:6379"
    assert variables["ray_token_secret"]["default"] == name
    image = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert variables["image"]["default"] == image
    [container] = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    options = options_of(container["command"][2].partition(" && ")[0])
    assert (options["num_cpus"], options["num_gpus"]) == (0, 0)


@pytest.mark.parametrize(("joins", "ran"), [("exit 0", True), ("exit 1", False)])
def test_a_job_runs_its_flow_when_it_has_joined(tmp_path: Path, joins: str, ran: bool) -> None:
    [container] = job_template()["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    write_program(tmp_path / "ray", f'echo "$@" > "$HOME/ray"; {joins}')
    words = [word.replace("{{ ray_head }}", "head:6379") for word in container["command"]]
    done = subprocess.run(
        [*words, "echo", "a flow", "run"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0, done.stdout) == (ran, "a flow run\n" if ran else "")
    assert "--address=head:6379" in (tmp_path / "ray").read_text()
