"""Refuses prompts that a trainer does not take, or of which it would make other token ids than those sampled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import ConfigError
from tasks.export.formats import FORMATS, ExportFormat


@dataclass(frozen=True, kw_only=True)
class ArmPrompts:
    """How the prompts of an arm were made."""

    arm_id: str
    is_plain: bool
    """Whether they are texts to complete, which no chat template was applied to."""
    template_kwargs: Mapping[str, Any]
    """What the chat template got beside the messages."""


def check_prompts(chosen: ExportFormat, arms: list[ArmPrompts]) -> dict[str, Any]:
    """Return the chat template's arguments to configure in a trainer that makes the token ids of prompts, or {}.

    ``arms`` are those to export. Raises ConfigError when the target does not take their prompts, or when no setting of
    the trainer would make the same token ids.
    """
    plain = ", ".join(arm.arm_id for arm in arms if arm.is_plain)
    if chosen.prompts == "one kind" and len({arm.is_plain for arm in arms}) > 1:
        raise ConfigError(
            f"{chosen.name} takes either chats or plain texts, and the arms mix both (plain: {plain}). Export each "
            "kind by itself, with --arms"
        )
    if chosen.prompts != "messages":
        return {}
    first = arms[0]
    different = next((arm.arm_id for arm in arms if arm.template_kwargs != first.template_kwargs), None)
    if plain:
        reason = f"the prompts of {plain} are plain texts"
    elif different:
        reason = f"{different} has other chat_template_kwargs than {first.arm_id}, and there is one setting for all"
    elif "tools" in first.template_kwargs:
        reason = "the tools in chat_template_kwargs cannot be passed on"
    else:
        return dict(first.template_kwargs)
    others = ", ".join(item.name for item in FORMATS.values() if item.prompts == "ids" and item.for_training)
    raise ConfigError(
        f"{chosen.name} makes the token ids of prompts with the chat template, and {reason}: they would not be the ids "
        f"that were sampled from. Choose arms with --arms, or export to a target that takes ids: {others}"
    )
