"""Renders and encodes a sample of a run's prompts, as generation does, and says what is wrong with them.

It runs in a process of its own, with limits: a chat template is code of others, which may loop or allocate without end.
"""

import gc
import math
import os
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from profiles.arm_schema import Arm
from tasks.errors import ConfigError
from tasks.node.prompt_lengths import PromptLengths, measure_prompts
from tasks.node.template_check import TemplateHabits, find_habits
from tasks.plan.prompts import TEXT, ChatTokenizer, encode_question, spare_torch
from tasks.process_limits import limit_memory
from tasks.scoring.reasoning_opening import ReasoningOpening, closing_tag, opened_reasoning
from tasks.units import GIB

CPU_SECONDS = 60
"""How much processor time the prompts may take. A busy machine changes it little, and a template cannot wait."""
_KILL_SECONDS = 10
"""How much more a template may take that no handler can interrupt."""
_MEMORY_BYTES = 2 * GIB
"""How much memory the prompts may take, beside the libraries and the tokenizer."""


@dataclass(frozen=True, kw_only=True)
class PromptOrder:
    """What to render: ``questions`` under every arm. ``max_tokens`` and ``max_model_len`` are those of the run."""

    model_path: Path
    trust_remote_code: bool
    arms: tuple[Arm, ...]
    questions: tuple[str, ...]
    max_tokens: int
    max_model_len: int


@dataclass(frozen=True, kw_only=True)
class PromptSample:
    """What is known of a run's prompts: the content of prompts.json."""

    lengths: PromptLengths | None = None
    """None when no prompt could be made."""
    problems: tuple[str, ...] = ()
    """Why nothing useful can come of the run; a sentence each."""
    warnings: tuple[str, ...] = ()
    """What its user may not have meant; a sentence each."""
    openings: tuple[ReasoningOpening, ...] = ()
    """How prompts end that leave the model inside reasoning."""


def render_prompts(order: PromptOrder, cpu_seconds: int = CPU_SECONDS) -> PromptSample:
    """Return what is found of the prompts of ``order``. Changes the limits of this process.

    Raises ConfigError when the tokenizer cannot be read, or when a chat template does not come to an end.
    """
    gc.disable()  # there is little to collect, and it takes a tenth of the time
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not order.trust_remote_code:
        # a model's own code may need it
        spare_torch()
    tokenizer = ChatTokenizer(order.model_path, trust_remote_code=order.trust_remote_code)
    limit_memory(_MEMORY_BYTES)
    _end_after(cpu_seconds)
    return examine_prompts(tokenizer, order)


def examine_prompts(tokenizer: ChatTokenizer, order: PromptOrder) -> PromptSample:
    """``render_prompts`` without limits."""
    found: list[_ArmSample] = []
    try:
        for arm in order.arms:
            found.append(_ArmSample(tokenizer, arm, order.questions))
    except _TooSlowError:
        raise ConfigError(
            f"arm {order.arms[len(found)].id}: its prompts are not finished, and their processor time is used up. Look "
            f"for a loop that does not end in the chat template of {order.model_path}"
        ) from None
    return _judge(tokenizer, found, order)


class _TooSlowError(BaseException):
    """The processor time is used up. Not an Exception, since those count as the template's own."""


class _ArmSample:
    """The sampled prompts of one arm: token ids, or why there are none."""

    def __init__(self, tokenizer: ChatTokenizer, arm: Arm, questions: Sequence[str]) -> None:
        self.arm = arm
        encoded = {question: encode_question(tokenizer, [arm], question)[arm.id] for question in questions}
        self.prompts = {question: ids for question, ids in encoded.items() if not isinstance(ids, ConfigError)}
        self.refusals = [error for error in encoded.values() if isinstance(error, ConfigError)]
        self.habits = TemplateHabits()
        if self.prompts:
            # a template that cuts questions may leave short ones whole
            self.habits = find_habits(tokenizer, arm, max(self.prompts, key=len))


def _judge(tokenizer: ChatTokenizer, found: Sequence[_ArmSample], order: PromptOrder) -> PromptSample:
    problems: list[str] = []
    warnings: list[str] = []
    limit = order.max_model_len - order.max_tokens
    for sample in found:
        arm, num_refused = sample.arm.id, len(sample.refusals)
        if not sample.prompts:
            problems.append(f"arm {arm}: {sample.refusals[0]}")
        elif num_refused:
            warnings.append(
                f"arm {arm}: {num_refused} of {len(order.questions)} sampled prompts cannot be made, and such "
                f"rollouts become error rows: {sample.refusals[0]}"
            )
        if "the question" in sample.habits.unheard:
            problems.append(f"arm {arm}: the chat template leaves out the question. Use another template")
        elif sample.habits.unheard:
            left_out = " and ".join(dict.fromkeys(sample.habits.unheard))
            warnings.append(f"arm {arm}: the chat template leaves out {left_out}, so the model never sees it")
        if sample.habits.cuts:
            warnings.append(
                f"arm {arm}: the chat template leaves out a part of the question, so the model sees only the rest. Use "
                "another template"
            )
        if sample.habits.begins_no_answer:
            warnings.append(
                f"arm {arm}: the chat template does not begin an answer, with or without add_generation_prompt, so the "
                "model may go on with the question, or write the header of another message. Use another template"
            )
        if sample.habits.changes:
            warnings.append(
                f"arm {arm}: the same prompt is not always rendered alike: the chat template writes the time, or "
                "something random, so rollouts of another day have another prompt. Fix it with chat_template_kwargs, "
                "where the template has an argument for it"
            )
        if too_long := [len(ids) for ids in sample.prompts.values() if len(ids) > limit]:
            warnings.append(
                f"arm {arm}: {len(too_long)} of {len(sample.prompts)} sampled prompts are too long, and such rollouts "
                f"become error rows: up to {max(too_long):,} tokens, where max_model_len {order.max_model_len:,} "
                f"leaves {limit:,} beside max_tokens {order.max_tokens:,}"
            )
    lengths = [len(ids) for sample in found for ids in sample.prompts.values()]
    if lengths and min(lengths) > limit:
        problems.append(
            f"every sampled prompt is too long: {min(lengths):,} to {max(lengths):,} tokens, where max_model_len "
            f"{order.max_model_len:,} leaves {limit:,} beside max_tokens {order.max_tokens:,}. Lower max_tokens, raise "
            "max_model_len, or shorten the arms"
        )
    problems += _alike(found)
    openings, hidden = _openings(tokenizer, found)
    if hidden:
        warnings.append(
            f"prompts end in {' and '.join(hidden)}, and completions do not show where that reasoning ends, as the tag "
            "is a special token: an answer inside it is scored too"
        )
    return PromptSample(
        lengths=measure_prompts([list(sample.prompts.values()) for sample in found]) if lengths else None,
        problems=tuple(problems),
        warnings=tuple(warnings),
        openings=tuple(openings),
    )


def _alike(found: Sequence[_ArmSample]) -> list[str]:
    """A sentence about each group of arms with equal prompts."""
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[_ArmSample]] = {}
    for sample in found:
        if sample.prompts:
            key = tuple((question, tuple(ids)) for question, ids in sample.prompts.items())
            groups.setdefault(key, []).append(sample)
    told = []
    for group in groups.values():
        if len(group) > 1:
            left_out = " and ".join(dict.fromkeys(part for sample in group for part in sample.habits.unheard))
            why = f", as the chat template leaves out {left_out}" if left_out else ""
            told.append(
                f"arms {', '.join(sample.arm.id for sample in group)} ask with the same prompts{why}: between them "
                "only chance would differ. Keep one of them; for more rollouts of it, or to see how much chance does, "
                "raise samples_per_arm"
            )
    return told


def _openings(tokenizer: ChatTokenizer, found: Sequence[_ArmSample]) -> tuple[set[ReasoningOpening], set[str]]:
    """The openings of reasoning at the ends of prompts, and the tags whose closing one no completion shows."""
    openings, hidden = set(), set()
    for question, ids in (prompt for sample in found for prompt in sample.prompts.items()):
        text = opened_reasoning(tokenizer.text_of(ids), question)
        if not text:
            continue
        closing = closing_tag(text)
        if closing not in tokenizer.decode(tokenizer.encode([{"role": TEXT, "content": closing}])):
            hidden.add(text.strip())
            continue
        length = next(length for length in range(1, len(ids) + 1) if text in tokenizer.text_of(ids[-length:]))
        openings.add(ReasoningOpening(ids=tuple(ids[-length:]), text=text))
    return openings, hidden


def _end_after(seconds: int) -> None:
    """Raise _TooSlowError in this process after so much more processor time, and kill it a little later."""

    def stop(*_: object) -> None:
        raise _TooSlowError

    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time()) + seconds
    kill = soft + _KILL_SECONDS
    signal.signal(signal.SIGXCPU, stop)
    hard = kill if most == resource.RLIM_INFINITY else min(kill, most)
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))
