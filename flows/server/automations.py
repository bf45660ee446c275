"""Installs the automations of infra/automations.yaml on a Prefect server, or updates those that are there."""

from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from profiles.regular_files import read_regular_text
from tasks.errors import ConfigError

_NOTIFY = "send-notification"


class Installation(NamedTuple):
    """The names of the automations of a file that are on the server now, and of those that are not."""

    installed: list[str]
    left_out: list[str]


def install_automations(file: Path, notify: str | None) -> Installation:
    """Create or replace the automations of ``file``.

    ``notify`` is a notification block as TYPE/NAME; without it, automations that send notifications are left out.
    Raises ConfigError when the file or the block cannot be used.
    """
    with get_client(sync_client=True) as client:
        block_id = None if notify is None else _find_block(client, notify)
        items = _read(file)
        automations = [automation for item in items if (automation := _parse(item, block_id))]
        for automation in automations:
            for known in client.read_automations_by_name(automation.name):
                client.delete_automation(known.id)
            client.create_automation(automation)
    installed = [automation.name for automation in automations]
    return Installation(installed, [name for item in items if (name := str(item.get("name"))) not in installed])


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        return list(yaml.safe_load(read_regular_text(file))["automations"])
    except (OSError, ValueError, RecursionError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"no automations can be read from {file}: {error}. Name another file with --file") from error


def _parse(item: dict[str, Any], block_id: UUID | None) -> AutomationCore | None:
    actions = [
        {**action, "block_document_id": block_id} if action["type"] == _NOTIFY else action for action in item["actions"]
    ]
    if block_id is None and any(action["type"] == _NOTIFY for action in actions):
        return None
    try:
        return AutomationCore.model_validate({**item, "actions": actions})
    except ValidationError as error:
        raise ConfigError(
            f"Prefect does not accept the automation {item.get('name')!r}: {error.errors()[0]}. Correct the file"
        ) from None


def _find_block(client: SyncPrefectClient, name: str) -> UUID:
    kind, _, block = name.partition("/")
    try:
        return client.read_block_document_by_name(block, kind).id
    except ObjectNotFound:
        raise ConfigError(
            f"there is no block {name!r} on the server. Give TYPE/NAME as `prefect block ls` lists it, such as "
            "slack-webhook/team"
        ) from None
