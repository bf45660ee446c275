"""What a chat template does to an arm's prompts that its user may not have meant, found by changed prompts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from profiles.arm_schema import Arm
from tasks.errors import ConfigError
from tasks.plan.prompts import TEXT, ChatTokenizer, Message, build_messages

_ENDS = 4
"""How many messages are changed at each end of a prompt: of many few-shot turns, the outer ones tell of the rest."""
_MARK = "x"
_ANSWER = {"role": "assistant", "content": _MARK}
_NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True, kw_only=True)
class TemplateHabits:
    """What was found with one question."""

    unheard: tuple[str, ...] = ()
    """The messages that are left out, in words."""
    cuts: bool = False
    """Whether the start or the end of the question is left out."""
    changes: bool = False
    """Whether the same prompt has another text at another time."""
    begins_no_answer: bool = False
    """Whether something of the template's own comes between the prompt and an answer."""


def find_habits(tokenizer: ChatTokenizer, arm: Arm, question: str) -> TemplateHabits:
    """Return what the template does to ``question`` under ``arm``, from texts: encoding them would take seconds.

    The number of texts does not grow with the arm.
    """
    messages = build_messages(arm, question)
    last = len(messages) - 1

    def render(
        messages: list[Message], more: Mapping[str, object] = _NOTHING, *, begin_answer: bool = True
    ) -> str | None:
        try:
            return tokenizer.render(messages, {**arm.chat_template_kwargs, **more}, begin_answer=begin_answer)
        except ConfigError:
            return None

    text = render(messages)
    if text is None:
        return TemplateHabits()

    def is_unseen(place: int, change: Callable[[str], str]) -> bool:
        other = {**messages[place], "content": change(messages[place]["content"])}
        return render([*messages[:place], other, *messages[place + 1 :]]) == text

    unheard = tuple(
        "the question" if place == last else f"the {messages[place]['role']} message"
        for place in sorted({*range(len(messages))[:_ENDS], *range(len(messages))[-_ENDS:]})
        if is_unseen(place, lambda content: f"{_MARK} {content} {_MARK}")
    )
    changes = any(render(messages, more) not in (None, text) for more in (_NOTHING, {"strftime_now": lambda _: _MARK}))
    if messages[last]["role"] == TEXT or "the question" in unheard:
        return TemplateHabits(unheard=unheard, changes=changes)
    return TemplateHabits(
        unheard=unheard,
        cuts=is_unseen(last, lambda content: f"{content} {_MARK}")
        or is_unseen(last, lambda content: f"{_MARK} {content}"),
        changes=changes,
        begins_no_answer=render(messages, begin_answer=False) == text
        and _comes_before_answer(text, render([*messages, _ANSWER], begin_answer=False)),
    )


def _comes_before_answer(prompt: str, answered: str | None) -> bool:
    """Whether ``answered`` has more than blanks between ``prompt`` and the answer. False when it begins otherwise.

    Many templates need no switch: they always end with the beginning of an answer, or have none.
    """
    if answered is None or not answered.startswith(prompt):
        return False
    return not answered.removeprefix(prompt).lstrip().startswith(_MARK)
