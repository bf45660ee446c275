"""The keys of arms files: type, bounds and meaning of each. An unknown key is an error."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from profiles.settings import Settings


class Turn(Settings):
    """One few-shot exchange, placed between the system prompt and the question."""

    user: str = Field(min_length=1)
    """The user's message."""
    assistant: str = Field(min_length=1)
    """The answer that the model is shown."""


PromptFormat = Literal["chat", "plain"]

PLAIN_TEMPLATE = "Question:\n{question}\nAnswer:\nLet's think step by step.\n"
"""The prompt of Abel (https://github.com/GAIR-NLP/abel), which suits most base models."""

RESERVED_TEMPLATE_KWARGS = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "conversations",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "self",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
}
"""Names that ``apply_chat_template`` of transformers, or what it calls, sets for every prompt."""


class Arm(Settings):
    """A named system prompt; every question is asked under every arm."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
    """Its ``arm_id`` in every row; unique in its file."""
    system_prompt: str
    """The system message; when empty, none is sent."""
    few_shot: tuple[Turn, ...] = ()
    """Exchanges shown before each question."""
    prompt_format: PromptFormat = "chat"
    """"chat" uses the model's chat template; "plain" gives base models a text to complete."""
    template: str | None = None
    """With "plain": the text to complete, with ``{question}`` in place of the question. None uses PLAIN_TEMPLATE."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """With "chat": more arguments for the chat template, such as enable_thinking or tools."""

    @model_validator(mode="after")
    def _options_fit_the_format(self) -> "Arm":
        if self.template is not None and self.prompt_format != "plain":
            raise ValueError('template needs prompt_format = "plain"; a chat is laid out by the model\'s chat template')
        if self.template is not None and "{question}" not in self.template:
            raise ValueError(f"template is {self.template!r}; it must contain {{question}}")
        if self.chat_template_kwargs and self.prompt_format != "chat":
            raise ValueError('chat_template_kwargs need prompt_format = "chat"')
        try:
            # the record of a run holds them
            json.dumps(self.chat_template_kwargs, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"chat_template_kwargs cannot be written as JSON: {error}") from None
        if reserved := sorted(RESERVED_TEMPLATE_KWARGS & self.chat_template_kwargs.keys()):
            raise ValueError(
                f"chat_template_kwargs may not set {reserved[0]}, which is set for every prompt. Give only what the "
                "chat template itself reads, such as enable_thinking"
            )
        return self


class ArmSet(Settings):
    """All arms of a run, in the order of the file."""

    arms: tuple[Arm, ...] = Field(min_length=1, max_length=256)
    """At least one. Ids are unique."""

    @model_validator(mode="after")
    def _ids_unique(self) -> "ArmSet":
        ids = [arm.id for arm in self.arms]
        repeated = sorted({arm_id for arm_id in ids if ids.count(arm_id) > 1})
        if repeated:
            raise ValueError(f"arm id {', '.join(map(repr, repeated))} appears more than once; ids must be unique")
        return self
