"""Apply the prompt settings of a run to its arms, and check that the model can take their prompts."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from profiles.load import explain
from profiles.schema import Arm, ArmSet
from tasks.errors import ConfigError
from tasks.plan.prompts import has_chat_template, no_chat_template
from tasks.plan.run_config import RunConfig


def arms_as_asked(arms: ArmSet, config: RunConfig) -> ArmSet:
    """Return ``arms`` with the prompt_format, prompt_template and chat_template_kwargs of ``config``.

    Raises ConfigError when a setting applies to no arm, or does not fit one.
    """
    changed = tuple(_as_asked(arm, config) for arm in arms.arms)
    plain = any(arm.prompt_format == "plain" for arm in changed)
    if config.prompt_template is not None and not plain:
        raise ConfigError("prompt_template is given, but no arm is plain. Add --prompt-format plain")
    if config.chat_template_kwargs and all(arm.prompt_format == "plain" for arm in changed):
        raise ConfigError(
            "chat_template_kwargs are given, but every arm is plain and uses no chat template. Remove them"
        )
    return ArmSet(arms=changed)


def check_prompts(arms: ArmSet, model_path: Path) -> None:
    """Raise ConfigError when an arm is a chat and the model has no chat template."""
    if any(arm.prompt_format == "chat" for arm in arms.arms) and not has_chat_template(model_path):
        raise ConfigError(no_chat_template(model_path))


def _as_asked(arm: Arm, config: RunConfig) -> Arm:
    values: dict[str, Any] = arm.model_dump(exclude_defaults=True)
    if config.prompt_format is not None and config.prompt_format != arm.prompt_format:
        # settings of the other format would contradict this one
        values = {name: value for name, value in values.items() if name not in ("template", "chat_template_kwargs")}
        values["prompt_format"] = config.prompt_format
    if values.get("prompt_format", "chat") == "plain":
        if config.prompt_template is not None:
            values["template"] = config.prompt_template
    elif config.chat_template_kwargs:
        values["chat_template_kwargs"] = {**arm.chat_template_kwargs, **config.chat_template_kwargs}
    try:
        return Arm.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"arm {arm.id}: {explain(error, Arm)}") from None
