"""Which schedules of a file's deployments are active. Prefect makes them as the file has them, each time."""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse

from profiles.regular_files import read_regular_text
from tasks.errors import ConfigError


class ScheduleName(NamedTuple):
    """A schedule, by its deployment and its slug in the file."""

    deployment: str
    slug: str | None

    def __str__(self) -> str:
        return f"{self.slug or 'a schedule'} of {self.deployment}"


def deployment_names(file: Path) -> list[str]:
    """Return the names of the deployments of ``file``. Raises ConfigError when it has none that can be read."""
    try:
        return [str(item["name"]) for item in yaml.safe_load(read_regular_text(file))["deployments"]]
    except (OSError, ValueError, RecursionError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"no deployments can be read from {file}: {error}. Name another file with --file") from error


def active_schedules(names: list[str]) -> set[ScheduleName]:
    """Return the active schedules of the deployments ``names`` on the server."""
    with get_client(sync_client=True) as client:
        return {name for name, _, schedule in _schedules(client, names) if schedule.active}


def activate_schedules(names: list[str], wanted: set[ScheduleName], patterns: tuple[str, ...]) -> list[ScheduleName]:
    """Activate the schedules that are ``wanted``, and those of deployments that match one of ``patterns``.

    Returns the schedules of the deployments ``names`` that are paused then.
    """
    paused = []
    with get_client(sync_client=True) as client:
        for name, deployment, schedule in _schedules(client, names):
            if schedule.active:
                continue
            if name in wanted or any(fnmatch(name.deployment, pattern.rpartition("/")[2]) for pattern in patterns):
                client.update_deployment_schedule(deployment.id, schedule.id, active=True)
            else:
                paused.append(name)
    return paused


def _schedules(
    client: SyncPrefectClient, names: list[str]
) -> Iterator[tuple[ScheduleName, DeploymentResponse, DeploymentSchedule]]:
    for deployment in client.read_deployments(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=names))
    ):
        for schedule in deployment.schedules:
            yield ScheduleName(deployment.name, schedule.slug), deployment, schedule
