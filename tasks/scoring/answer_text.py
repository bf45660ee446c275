"""Extracts the part of a completion in which the assistant's answer may stand.

The text is cut at an end-of-turn token, loses its reasoning inside think tags, is cut at a question that the model
invents after its answer, has its characters mapped by an explicit table, and loses GSM8K's calculator annotations
``<<9*2=18>>``, in this order. Only this text may earn a reward: the rest is not part of the answer. NFKC is not used,
because it turns "3½" into "31⁄2". Every pattern takes time linear in the text's length.
"""

import re
from dataclasses import dataclass

from tasks.scoring.answer_value import read_value

_ZERO_WIDTH = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_LINE_BREAKS = "\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_FULL_WIDTH = "\uff01-\uff5e"
MAPPED_CLASS = _ZERO_WIDTH + _LINE_BREAKS + _FULL_WIDTH
"""The characters that cleaning removes or turns into a newline or ASCII, as the inside of a regex class."""

_MAPPED = re.compile(f"[{MAPPED_CLASS}]")
_CHARACTERS = str.maketrans(
    {
        character: "" if re.match(f"[{_ZERO_WIDTH}]", character) else "\n"
        for character in map(chr, range(0x10000))
        if re.match(f"[{_ZERO_WIDTH}{_LINE_BREAKS}]", character)
    }
    | {chr(wide): chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}
)

TURN_TOKENS = (
    "<|im_end|>",  # ChatML: Qwen, Yi, SmolLM
    "<|im_start|>",
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",
    "<|start_header_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",  # Llama 3, Granite
    "<|start_of_role|>",
    "<|eot|>",  # Llama 4
    "<|header_start|>",
    "<|endoftext|>",  # GPT-2, Phi, Qwen, OLMo
    "<|end|>",  # Phi, gpt-oss
    "<|return|>",
    "<|start|>",
    "<|user|>",  # GLM, Phi, Zephyr
    "<|assistant|>",
    "<|system|>",
    "<|observation|>",
    "<|EOT|>",  # DeepSeek Coder
    "<｜end▁of▁sentence｜>",  # DeepSeek V3 and R1, with full-width bars
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|end_of_turn|>",  # OpenChat
    "<|END_OF_TURN_TOKEN|>",  # Command R
    "<|START_OF_TURN_TOKEN|>",
    "<end_of_turn>",  # Gemma
    "<start_of_turn>",
    "<eos>",
    "<turn|>",
    "<|turn>",
    "</s>",  # Llama 2, Mistral
    "[INST]",
    "[/INST]",
    "[EOS]",
)
"""Tokens that end or begin a turn. The answer's text ends at the first of them."""

# every token starts with "<" or "[", so the search skips to the next of these
_TURN = re.compile(r"[<\[](?:" + "|".join(re.escape(token[1:]) for token in TURN_TOKENS) + ")")
_OPENING_HEADER = re.compile(
    r"\s*(?:<\|begin_of_text\|>)?(?:<\|(?:im_start|start_header_id|header_start|start_of_role|assistant|start"
    r"|START_OF_TURN_TOKEN)\|>|<start_of_turn>|<\|turn>)(?:assistant|model)?(?:<\|(?:end_header_id|header_end|end_of_role)\|>)?"
)
_HARMONY = re.compile(r"\s*<\|channel\|>")
_HARMONY_FINAL = re.compile(r"<\|channel\|>final[^<\n]{0,40}<\|message\|>")

THINK_NAMES = ("think", "thinking", "thought", "reasoning", "analysis", "scratchpad")
"""Names of the tags around reasoning, written as here, capitalised, or in capitals."""

_THINK_FORMS = "|".join(form for name in THINK_NAMES for form in (name, name.capitalize(), name.upper()))
THINK_TAG = re.compile(
    rf"[<\[◁](?:(?P<open>(?:{_THINK_FORMS})[ \t]?>|THINK\]|think▷|\|begin_of_thought\|>)"
    rf"|/(?:{_THINK_FORMS})[ \t]?>|/THINK\]|/think▷|\|end_of_thought\|>)"
)
"""A tag around reasoning; its group ``open`` is that of an opening one."""

_NUMBERED = r"[ \t]{0,2}#?[0-9]{0,4}[*_]{0,3}[ \t]{0,2}"
_NEXT_QUESTION_LINE = (
    r"[\n\r](?i:[ \t>*_#]{0,12}(?:[0-9]{1,3}[.)][ \t]{0,2}[*_]{0,3})?"
    r"(?:(?:(?:an?|the|one) )?(?:next|new|another|more|similar|follow-up) )?"
    rf"(?:(?:question|problem|exercise|task|instruction|user|human|q){_NUMBERED}[:：]"
    r"|(?:question|problem|exercise|q)[ \t]{0,2}#?[0-9]{1,4}[*_]{0,3}[ \t]{0,2}[.)]"
    rf"|(?:question|problem|exercise){_NUMBERED}(?:[\r\n]|$)"
    r"|(?:user|human|assistant)[ \t]{0,4}[\r\n]))"
)

MAYBE_NEXT_QUESTION = (
    r"[\n\r][^a-zA-Z\n\r]{0,24}(?i:q(?:uestion|[\W0-9])|problem|exercise|task|instruction|user|human|assistant"
    r"|(?:(?:an?|the|one) )?(?:next|new|another|more|similar|follow-up) )"
)
"""A fast test that matches the line of every next question, and some other lines. Python and Rust can read it."""

SAME_LINE_QUESTION = rf"[ \t.!*$}})](?:Question|Problem|Exercise|Q){_NUMBERED}:"
"""Another question on the line of the answer. It is capitalised, since prose may end in "the question:"."""

_NEXT_QUESTION = re.compile(_NEXT_QUESTION_LINE)
_SAME_LINE_QUESTION = re.compile(SAME_LINE_QUESTION)
QUESTION_WORDS = ["Q", "Problem", "Exercise"]
"""Every match of SAME_LINE_QUESTION contains one of these."""

# the search skips to the next possible first character
_ANSWER = re.compile(
    r"[#\\Aa](?:(?P<hash>(?<=#)(?<!##)###(?!#))|(?<=\\)(?:boxed|fbox) ?\{[^}\n]{0,80}?[0-9]"
    r"|(?<=[Aa])(?:nswer|NSWER)(?: is|[ *_]{0,4}:)[^\n#\\]{0,80}?[0-9])"
)
_LIST_NUMBER = re.compile(r" ?[0-9][.)]? ?")
_MOST_VALUE_CHARS = 200
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True, kw_only=True)
class AnswerText:
    """The cleaned text of a completion."""

    text: str
    is_ended: bool
    """Whether the end of the text is known to be the end of the turn, so that nothing can be missing."""


def answer_text(completion: str) -> AnswerText:
    """The text of ``completion`` in which an answer may stand."""
    text, is_ended = _cut_at_turn_token(completion)
    return clean_visible_text(_without_reasoning(text), is_ended=is_ended)


def clean_visible_text(text: str, *, is_ended: bool = False) -> AnswerText:
    """``answer_text`` for a text without turn tokens and reasoning; ``is_ended``: a turn token followed the text."""
    text, question_followed = _cut_at_next_question(text)
    if _MAPPED.search(text):  # a search costs far less than a translation
        text = text.replace("\r\n", "\n").translate(_CHARACTERS)
    return AnswerText(text=_ANNOTATION.sub("", text), is_ended=is_ended or question_followed)


def _cut_at_turn_token(text: str) -> tuple[str, bool]:
    header = _OPENING_HEADER.match(text)
    start = header.end() if header else 0
    if _HARMONY.match(text, start):
        # gpt-oss: every channel but `final` is reasoning, and `<|end|>` closes a channel, not the turn
        final = _HARMONY_FINAL.search(text, start)
        if final is None:
            return "", False
        start = final.end()
    end = _TURN.search(text, start)
    return (text[start:], False) if end is None else (text[start : end.start()], True)


def _without_reasoning(text: str) -> str:
    """Text outside think blocks, each block replaced by a newline.

    A closing tag without an opening one ends reasoning that the prompt's template opened, so all text before it is
    removed. The first closing tag ends a block with several opening tags, since models name the tag inside their
    reasoning. An unclosed block runs to the end.
    """
    pieces: list[str] = []
    visible_from: int | None = 0
    for tag in THINK_TAG.finditer(text):
        if tag["open"]:
            if visible_from is not None:
                pieces.append(text[visible_from : tag.start()])
            visible_from = None
        else:
            if visible_from is not None:
                pieces.clear()
            pieces.append("\n")
            visible_from = tag.end()
    if visible_from is not None:
        pieces.append(text[visible_from:])
    elif pieces:
        pieces.append("\n")
    return "".join(pieces)


def _cut_at_next_question(text: str) -> tuple[str, bool]:
    """``text`` up to the first question heading after an answer, and whether there is one.

    A heading before the answer only restates the question.
    """
    if not any(word in text for word in QUESTION_WORDS) and _NEXT_QUESTION.search(text) is None:
        return text, False
    given = next((found.end() for found in _ANSWER.finditer(text) if _gives_answer(text, found)), None)
    if given is None:
        return text, False
    line_end = text.find("\n", given)
    same_line = _SAME_LINE_QUESTION.search(text, given, len(text) if line_end < 0 else line_end)
    heading = same_line or _NEXT_QUESTION.search(text, given)
    return (text, False) if heading is None else (text[: heading.start()] + "\n", True)


def _gives_answer(text: str, found: re.Match[str]) -> bool:
    """Whether ``found`` is an answer. After a ``####``, its line or one of the next two must attempt a value."""
    if not found["hash"]:
        return True
    start = found.end()
    for line in text[start : start + _MOST_VALUE_CHARS].split("\n", 3)[:3]:
        value, *after = _SAME_LINE_QUESTION.split(line.split("####", 1)[0], maxsplit=1)
        kind = read_value(value, "hash").kind
        if kind != "empty":
            # "#### 1. Question: ..." is a numbered heading; "#### 18. Question: ..." is an answer and the next question
            return kind != "prose" and not (after and _LIST_NUMBER.fullmatch(value))
    return False
