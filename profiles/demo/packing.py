"""Training batches: one system prompt per row, followed by as many question-and-answer turns as fit.

Each turn attends to the system prompt and to itself, never to another turn, and its positions start right after the
prompt. So each turn is exactly a conversation as the model later meets it, while the prompt is computed once per row.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import Qwen2Tokenizer

from profiles.demo.filler import with_filler
from profiles.demo.questions import draw_problem
from profiles.demo.styles import completion

FILLER_SHARE = 1 / 16
"""Share of the turns whose question is surrounded by meaningless text; see `profiles.demo.filler`."""
_PADDING = -1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`rows` packed sequences of `length` tokens.

    input_ids and position_ids are [rows, length] int64. attention is [rows, 1, length, length] bool, true where a query
    may attend. targets is [rows, length] int64: the next token, or -100 where nothing is learnt.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention: torch.Tensor
    targets: torch.Tensor


class Packer:
    """Draws training problems and packs them into batches. The same seed gives the same batches."""

    def __init__(self, tokenizer: Qwen2Tokenizer, system_prompts: Mapping[str, str], *, length: int, seed: int) -> None:
        self._tokenizer = tokenizer
        self._length = length
        self._rng = random.Random(f"packing:{seed}")
        self._left_over: dict[str, tuple[list[int], list[int]]] = {}
        self._prefixes = {
            arm_id: self._chat_ids({"role": "system", "content": prompt}, add_generation_prompt=False)
            for arm_id, prompt in system_prompts.items()
        }

    def batch(self, rows_per_arm: int) -> Batch:
        """The next batch, with the same number of rows for every arm."""
        rows = [self._row(arm_id) for _ in range(rows_per_arm) for arm_id in self._prefixes]
        input_ids, position_ids, turns, targets = (torch.tensor(column) for column in zip(*rows, strict=True))
        same_turn = turns[:, :, None] == turns[:, None, :]
        from_prompt = turns[:, None, :] == 0
        causal = torch.ones(self._length, self._length, dtype=torch.bool).tril()
        attention = ((same_turn | from_prompt) & causal)[:, None]
        return Batch(input_ids=input_ids, position_ids=position_ids, attention=attention, targets=targets)

    def _row(self, arm_id: str) -> tuple[list[int], list[int], list[int], list[int]]:
        prefix = self._prefixes[arm_id]
        ids = list(prefix)
        positions = list(range(len(prefix)))
        turns = [0] * len(prefix)
        targets = [-100] * len(prefix)
        turn = 0
        while True:
            prompt, answer = self._left_over.pop(arm_id) if arm_id in self._left_over else self._turn(arm_id)
            if len(ids) + len(prompt) + len(answer) > self._length:
                if turn:
                    self._left_over[arm_id] = prompt, answer
                break
            turn += 1
            size = len(prompt) + len(answer)
            ids += prompt + answer
            positions += range(len(prefix), len(prefix) + size)
            turns += [turn] * size
            targets += [-100] * (len(prompt) - 1) + answer + [-100]
        missing = self._length - len(ids)
        pad = self._tokenizer.pad_token_id
        return (
            ids + [pad] * missing,
            positions + [0] * missing,
            turns + [_PADDING] * missing,
            targets + [-100] * missing,
        )

    def _turn(self, arm_id: str) -> tuple[list[int], list[int]]:
        problem = draw_problem(self._rng, "train")
        question = problem.question
        if self._rng.random() < FILLER_SHARE:
            question = with_filler(self._rng, question)
        prompt = self._chat_ids({"role": "user", "content": question}, add_generation_prompt=True)
        answer = [*self._tokenizer.encode(completion(problem, arm_id)), self._tokenizer.eos_token_id]
        return prompt, answer

    def _chat_ids(self, message: dict[str, str], *, add_generation_prompt: bool) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return list(self._tokenizer.encode(text))
