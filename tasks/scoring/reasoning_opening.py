"""How a prompt ends whose template begins reasoning, so that the completion lacks the opening tag."""

from dataclasses import dataclass

from tasks.scoring.answer_text import THINK_TAG


@dataclass(frozen=True, kw_only=True)
class ReasoningOpening:
    """The end of a prompt, from the tag on that opens reasoning."""

    ids: tuple[int, ...]
    """The last token ids of such a prompt."""
    text: str


def opened_reasoning(prompt: str, asked: str) -> str:
    """The end of ``prompt`` from the tag on with which its template opens reasoning; empty when it opens none.

    What stands before the end of the last ``asked``, the question, is no template's: users write of tags too. A tag
    that nothing follows opens reasoning whoever wrote it.
    """
    asked = asked.strip()
    by_template = prompt.rpartition(asked)[2] if asked and asked in prompt else ""
    last = _last_open(by_template)
    if not last:
        last = _last_open(prompt)
        tag = THINK_TAG.match(last)
        if tag and last[tag.end() :].strip():
            return ""
    return last


def closing_tag(opened: str) -> str:
    """The tag that closes the reasoning which ``opened`` opens, a text that begins with a tag."""
    tag = THINK_TAG.match(opened)
    assert tag is not None
    text = tag.group()
    return text.replace("begin", "end") if text.startswith("<|") else f"{text[0]}/{text[1:]}"


def _last_open(text: str) -> str:
    """``text`` from its last tag on, if that is an opening one."""
    *_, last = (None, *THINK_TAG.finditer(text))
    return text[last.start() :] if last and last["open"] else ""
