"""How long a run's prompts are, told without transformers, whose import takes longer than all of preflight.

The questions and arms are encoded with the model's own vocabulary; what a chat template puts around them is estimated.
"""

from collections.abc import Mapping
from typing import Any

from tasks.errors import ConfigError
from tasks.prompt_lengths import PromptLengths, measure_prompts
from tasks.prompts import TEXT, Message
from tasks.run_plan import RunPlan

MARKUP_TOKENS = 5
"""Around each message of a chat: a start, the role, a line break, an end, a line break."""


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
