"""Measures the lengths of a run's prompts on a sample of its questions, for the memory plan.

``measure_prompts`` uses the model's chat tokenizer. ``estimate_prompts`` works without transformers, whose import takes
longer than all of preflight. It encodes questions and arms with the model's vocabulary, and estimates the tokens that
the chat template puts around them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profiles.schema import ArmSet
from tasks.errors import ConfigError
from tasks.plan.prompts import TEXT, Message, build_messages
from tasks.plan.run_plan import RunPlan

SAMPLE = 64

MARKUP_TOKENS = 5
"""Estimated number of tokens around a chat message: a start, the role, a line break, an end, a line break."""


@dataclass(frozen=True, kw_only=True)
class PromptLengths:
    """Prompt lengths in tokens, over sampled questions under every arm."""

    sampled: int
    """Number of sampled questions."""
    mean: float
    """Mean length."""
    p99: int
    """99% of the prompts are at most this long."""
    longest: int
    """Length of the longest prompt."""
    shared_prefix: float
    """Number of tokens that all sampled prompts of an arm start with; the mean over arms."""


def measure_prompts(
    encode: Callable[[list[Message], Mapping[str, Any]], list[int]],
    arms: ArmSet,
    questions: Sequence[str],
    *,
    sample: int = SAMPLE,
) -> PromptLengths:
    """Prompt lengths of evenly spread ``questions`` under every arm; ``encode`` turns a chat into token ids.

    The sample always has the question with the most characters. Raises ValueError without questions.
    """
    if not questions:
        raise ValueError("there are no questions to measure; give at least one")
    step = max(1, len(questions) // sample)
    chosen = dict.fromkeys([*questions[::step][:sample], max(questions, key=len)])
    lengths: list[int] = []
    prefixes: list[int] = []
    for arm in arms.arms:
        prompts = [encode(build_messages(arm, question), arm.chat_template_kwargs) for question in chosen]
        lengths += [len(prompt) for prompt in prompts]
        prefixes.append(_common_prefix(prompts))
    lengths.sort()
    return PromptLengths(
        sampled=len(chosen),
        mean=sum(lengths) / len(lengths),
        p99=lengths[min(len(lengths) - 1, int(0.99 * len(lengths)))],
        longest=lengths[-1],
        shared_prefix=sum(prefixes) / len(prefixes),
    )


def estimate_prompts(run: RunPlan) -> PromptLengths | None:
    """Estimated prompt lengths on a sample of the run's questions; None when the model has no tokenizer.json.

    Raises ConfigError when that file cannot be read.
    """
    path = run.model.path / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise ConfigError(f"{path} cannot be read: {error}. Download the model's tokenizer files again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    @functools.cache
    def encode_text(text: str) -> list[int]:
        # unlike encode, encode_batch lets other threads run meanwhile: one of them ends a process that gets a signal
        encoded: list[int] = tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
        return encoded

    def encode(messages: list[Message], template_kwargs: Mapping[str, Any]) -> list[int]:
        ids: list[int] = []
        for message in messages:
            ids += encode_text(message["content"])
            ids += [0] * (0 if message["role"] == TEXT else MARKUP_TOKENS)
        return ids

    return measure_prompts(encode, run.arms, run.questions.get_column("question").to_list())


def _common_prefix(prompts: Sequence[list[int]]) -> int:
    """Number of tokens that all prompts start with; 0 for fewer than two prompts."""
    if len(prompts) < 2:
        return 0
    # lists are ordered by their first difference, so the extremes differ earliest
    first, last = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
