"""How long the prompts of a run are, measured on a sample of its questions.

``measure_prompts`` takes the model's chat tokenizer. ``estimate_prompts`` does without transformers, whose import takes
longer than all of preflight: it encodes questions and arms with the model's own vocabulary, and estimates what the chat
template puts around them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profiles.schema import ArmSet
from tasks.errors import ConfigError
from tasks.plan.prompts import TEXT, Message, build_messages
from tasks.plan.run_plan import RunPlan

SAMPLE = 64

MARKUP_TOKENS = 5
"""Estimated tokens around each message of a chat: a start, the role, a line break, an end, a line break."""


@dataclass(frozen=True, kw_only=True)
class PromptLengths:
    """Prompt lengths in tokens over sampled questions under every arm.

    ``shared_prefix`` is the mean over arms of the tokens that all sampled prompts of an arm start with.
    """

    sampled: int
    mean: float
    p99: int
    longest: int
    shared_prefix: float


def measure_prompts(
    encode: Callable[[list[Message], Mapping[str, Any]], list[int]],
    arms: ArmSet,
    questions: Sequence[str],
    *,
    sample: int = SAMPLE,
) -> PromptLengths:
    """Measure evenly spread ``questions`` under every arm; ``encode`` is the chat tokenizer's.

    The question of the most characters is always measured. Raises ValueError without questions.
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
    """Prompt lengths in tokens on a sample of the run's questions, or None when the model has no tokenizer.json.

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

    def encode(messages: list[Message], template_kwargs: Mapping[str, Any]) -> list[int]:
        ids: list[int] = []
        for message in messages:
            ids += tokenizer.encode(message["content"], add_special_tokens=False).ids
            ids += [0] * (0 if message["role"] == TEXT else MARKUP_TOKENS)
        return ids

    return measure_prompts(encode, run.arms, run.questions.get_column("question").to_list())


def _common_prefix(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts start with; one prompt shares nothing."""
    if len(prompts) < 2:
        return 0
    # lists are ordered by their first difference, so the extremes differ earliest
    first, last = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
