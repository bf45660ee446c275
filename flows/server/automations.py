"""Installing infra/automations.yaml on a Prefect server; the same again updates what is there."""

from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from tasks.errors import ConfigError

NOTIFY = "send-notification"


def install_automations(file: Path, notify: str | None) -> list[str]:
    """Create or replace the automations of ``file``; return their names.

    ``notify`` is the notification block, as TYPE/NAME; without it those that notify are left out. Raises ConfigError.
    """
    with get_client(sync_client=True) as client:
        block_id = None if notify is None else _find_block(client, notify)
        automations = [automation for item in _read(file) if (automation := _parse(item, block_id))]
        for automation in automations:
            for known in client.read_automations_by_name(automation.name):
                client.delete_automation(known.id)
            client.create_automation(automation)
    return [automation.name for automation in automations]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = content["automations"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} holds no automations: {error}. Give --file") from error
    return list(found)


def _parse(item: dict[str, Any], block_id: UUID | None) -> AutomationCore | None:
    actions = [
        {**action, "block_document_id": block_id} if action["type"] == NOTIFY else action for action in item["actions"]
    ]
    if block_id is None and any(action["type"] == NOTIFY for action in actions):
        return None
    try:
        return AutomationCore.model_validate({**item, "actions": actions})
    except ValidationError as error:
        raise ConfigError(f"automation {item.get('name')!r} is not one of Prefect's: {error.errors()[0]}") from None


def _find_block(client: SyncPrefectClient, name: str) -> UUID:
    kind, _, block = name.partition("/")
    try:
        return client.read_block_document_by_name(block, kind).id
    except ObjectNotFound:
        raise ConfigError(
            f"there is no block {name!r} on the server. Give TYPE/NAME as `prefect block ls` lists it, such as "
            "slack-webhook/team"
        ) from None
