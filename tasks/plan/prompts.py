"""Make prompts: apply a run's prompt settings to its arms, encode questions under arms, and decode completions."""

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError

from profiles.arm_schema import PLAIN_TEMPLATE, Arm, ArmSet
from profiles.load import explain
from tasks.errors import ConfigError, PromptTooLong
from tasks.plain_text import one_line
from tasks.plan.model_config import read_model_json
from tasks.plan.run_config import RunConfig
from tasks.user_code import in_words, text_of, user_code

Message = dict[str, str]

_MAX_CHARACTERS = 500
"""Length of what is quoted of a chat template's own error."""

TEXT = "text"
"""Role of the single message of a plain prompt, whose content the model gets unchanged."""


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


def build_messages(arm: Arm, question: str) -> list[Message]:
    """Return the prompt of ``question`` under ``arm``: system prompt, few-shot turns, question; or one TEXT message."""
    if arm.prompt_format == "plain":
        return [{"role": TEXT, "content": _plain_text(arm, question)}]
    messages = [{"role": "system", "content": arm.system_prompt}] if arm.system_prompt else []
    for turn in arm.few_shot:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.assistant})
    return [*messages, {"role": "user", "content": question}]


def _plain_text(arm: Arm, question: str) -> str:
    template = arm.template or PLAIN_TEMPLATE

    def ask(words: str) -> str:
        # the text {question} inside a question is not replaced
        return re.sub(r"\{question\}", lambda match: words, template)

    parts = [f"{arm.system_prompt}\n\n"] if arm.system_prompt else []
    parts += [f"{ask(turn.user)}{turn.assistant}\n\n" for turn in arm.few_shot]
    return "".join([*parts, ask(question)])


def has_chat_template(model_path: Path) -> bool:
    """Return whether the model's files include a chat template. Reads no weights."""
    if any((model_path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        config = read_model_json(model_path / "tokenizer_config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def until_stop(text: str, stop: Sequence[str]) -> str:
    """Return ``text`` up to the first stop string. The last token may hold text after it."""
    ends = [at for at in (text.find(string) for string in stop) if at >= 0]
    return text[: min(ends)] if ends else text


def request_seed(run_seed: int, example_id: str, arm_id: str, sample_index: int) -> int:
    """Return the seed of one rollout, in [0, 2**63). Sharding, resume and batch size do not change it."""
    key = f"{run_seed}\x1f{example_id}\x1f{arm_id}\x1f{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def check_length(num_prompt_tokens: int, max_tokens: int, max_model_len: int) -> None:
    """Raise PromptTooLong when a completion of ``max_tokens`` does not fit after the prompt."""
    if num_prompt_tokens + max_tokens > max_model_len:
        raise PromptTooLong(num_prompt_tokens=num_prompt_tokens, max_tokens=max_tokens, max_model_len=max_model_len)


def spare_torch() -> None:
    """Let transformers do without torch, whose import takes seconds: in a process that encodes prompts and ends."""
    sys.modules["torch"] = None  # type: ignore[assignment]


class ChatTokenizer:
    """The model's tokenizer and, for prompts that are chats, its chat template."""

    def __init__(self, model_path: Path, *, trust_remote_code: bool = False) -> None:
        from transformers import AutoTokenizer

        def refusal(what: str) -> str:
            return f"the code of the model {model_path} made no tokenizer ({what}). Correct it, or use another model"

        with user_code(refusal) if trust_remote_code else contextlib.nullcontext():
            try:
                self._tokenizer: Any = AutoTokenizer.from_pretrained(
                    str(model_path), trust_remote_code=trust_remote_code
                )
            except Exception as error:  # the libraries raise no narrower type
                if trust_remote_code:
                    raise
                raise ConfigError(
                    f"the tokenizer of {model_path} cannot be read: {in_words(error)}. Download the model's tokenizer "
                    "files again"
                ) from error
        self._path = model_path

    def encode(self, messages: list[Message], template_kwargs: Mapping[str, Any] | None = None) -> list[int]:
        """Return the prompt's token ids, up to where the completion begins. The chat template gets ``template_kwargs``.

        Raises ConfigError when the model has no chat template for a chat, or its template refuses the messages.
        """
        if len(messages) == 1 and messages[0]["role"] == TEXT:
            return list(self._tokenizer(messages[0]["content"])["input_ids"])
        return list(self._apply_template(messages, template_kwargs))

    def encode_all(
        self, prompts: Sequence[list[Message]], template_kwargs: Mapping[str, Any] | None = None
    ) -> list[list[int]]:
        """Return the ids of each of ``prompts``, as ``encode`` does, with one call of the tokenizer where it can."""
        if not self._takes_batches or any(messages[0]["role"] == TEXT for messages in prompts):
            return [self.encode(messages, template_kwargs) for messages in prompts]
        return [list(ids) for ids in self._apply_template(prompts, template_kwargs)]

    def render(
        self, messages: list[Message], template_kwargs: Mapping[str, Any] | None = None, *, begin_answer: bool = True
    ) -> str:
        """Return the text that ``encode`` encodes; without ``begin_answer`` that of the messages alone.

        Takes little time, also for long prompts. Raises ConfigError as ``encode`` does.
        """
        if len(messages) == 1 and messages[0]["role"] == TEXT:
            return messages[0]["content"]
        return str(self._apply_template(messages, template_kwargs, begin_answer=begin_answer, tokenize=False))

    @property
    def _takes_batches(self) -> bool:
        from transformers import PreTrainedTokenizerBase

        # a model's own code may take only one chat at a time
        return type(self._tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template

    def _apply_template(
        self,
        chats: Sequence[Any],
        template_kwargs: Mapping[str, Any] | None,
        *,
        begin_answer: bool = True,
        tokenize: bool = True,
    ) -> Any:
        if not self._tokenizer.chat_template:
            raise ConfigError(no_chat_template(self._path))
        try:
            return self._tokenizer.apply_chat_template(
                chats,
                add_generation_prompt=begin_answer,
                tokenize=tokenize,
                return_dict=False,
                **(template_kwargs or {}),
            )
        except Exception as error:
            # the template is code, which may divide by zero
            said = one_line(text_of(error), _MAX_CHARACTERS) if isinstance(error, TemplateError) else in_words(error)
            raise ConfigError(
                f"the chat template of {self._path} does not take this prompt: {said}. Change the arm, or the template"
            ) from None

    def decode(self, completion_ids: list[int], stop: Sequence[str] = ()) -> str:
        """Return the completion's text without special tokens, up to the first stop string."""
        return until_stop(str(self._tokenizer.decode(completion_ids, skip_special_tokens=True)), stop)

    def encode_word(self, text: str) -> list[int]:
        """Return the token ids of ``text`` alone, without special tokens."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_of(self, ids: list[int]) -> str:
        """Return the text of a prompt's token ids, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def encode_question(tokenizer: ChatTokenizer, arms: Iterable[Arm], question: str) -> dict[str, list[int] | ConfigError]:
    """Return the prompt ids of ``question`` by arm id; where an arm's prompt cannot be made, the reason."""
    encoded: dict[str, list[int] | ConfigError] = {}
    for _, group in groupby(arms, key=lambda arm: arm.chat_template_kwargs):
        alike = list(group)
        prompts = [build_messages(arm, question) for arm in alike]
        try:
            ids = tokenizer.encode_all(prompts, alike[0].chat_template_kwargs)
        except ConfigError as error:
            for arm in alike:
                encoded |= encode_question(tokenizer, [arm], question) if len(alike) > 1 else {arm.id: error}
        else:
            encoded |= {arm.id: prompt_ids for arm, prompt_ids in zip(alike, ids, strict=True)}
    return encoded


def no_chat_template(model_path: Path) -> str:
    """Return the error message for a chat that is given to a model without a chat template."""
    return (
        f"model {model_path} has no chat template, so a system prompt cannot be given to it as a chat. Use an "
        "instruction-tuned model, add chat_template.jinja to its directory, or ask it to complete text with "
        "--prompt-format plain"
    )
