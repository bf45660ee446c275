"""Packed training rows give the same loss as the conversations in them."""

import random
import re
from typing import TYPE_CHECKING

import pytest

from profiles.demo.filler import with_filler
from profiles.demo.questions import generate_questions
from profiles.load import DEMO_MODEL, load_arms

# every process of the suite imports this file, and one runs its tests: torch is imported there, for seconds
if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

    from profiles.demo.packing import Batch, Packer

LENGTH = 256


@pytest.fixture(scope="module")
def tokenizer() -> "Qwen2Tokenizer":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def packer(tokenizer: "Qwen2Tokenizer", seed: int = 0) -> "Packer":
    from profiles.demo.packing import Packer

    prompts = {arm.id: arm.system_prompt for arm in load_arms(None).arms[:3]}
    return Packer(tokenizer, prompts, length=LENGTH, seed=seed)


def conversations(batch: "Batch", tokenizer: "Qwen2Tokenizer") -> list[list[int]]:
    """Token ids of every packed conversation as a chat of its own, made from the text of the rows."""
    found = []
    for row in batch.input_ids:
        system, *turns = tokenizer.decode(row).replace(tokenizer.pad_token, "").split("<|im_start|>user\n")
        found += [tokenizer.encode(f"{system}<|im_start|>user\n{turn}") for turn in turns]
    return found


def test_the_same_seed_gives_the_same_batches(tokenizer: "Qwen2Tokenizer") -> None:
    import torch

    one, same, other = packer(tokenizer), packer(tokenizer), packer(tokenizer, seed=1)
    for _ in range(3):
        batch = one.batch(1)
        assert torch.equal(batch.input_ids, same.batch(1).input_ids)
        assert not torch.equal(batch.input_ids, other.batch(1).input_ids)


def test_packing_does_not_change_the_loss(tokenizer: "Qwen2Tokenizer") -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from profiles.demo.train import batch_loss

    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    batch = packer(tokenizer).batch(1)
    answer_starts = tokenizer.encode("<|im_start|>assistant\n")
    losses = []
    with torch.inference_mode():
        for ids in conversations(batch, tokenizer):
            at = next(i for i in range(len(ids)) if ids[i : i + 3] == answer_starts) + 3
            logits = model(torch.tensor([ids])).logits[0]
            losses.append(
                torch.nn.functional.cross_entropy(logits[at - 1 : -1], torch.tensor(ids[at:]), reduction="none")
            )
        packed = batch_loss(model, batch)
    assert len(losses) >= 6
    torch.testing.assert_close(packed, torch.cat(losses).mean(), rtol=1e-4, atol=1e-4)


def test_filler_keeps_the_question_whole() -> None:
    rng = random.Random(0)
    for row in generate_questions(200):
        text = with_filler(rng, row.question)
        assert row.question in text
        assert len(text) > len(row.question) + 10


def test_filler_is_not_made_of_the_demo_language() -> None:
    rng = random.Random(0)
    words = set(re.findall(r"[a-z]{4,}", " ".join(with_filler(rng, "") for _ in range(200))))
    known = set(re.findall(r"[a-z]{4,}", " ".join(row.question for row in generate_questions(200))))
    assert len(words & known) < len(known) / 10


def test_the_learning_rate_warms_up_then_falls() -> None:
    from profiles.demo.train import learning_rate

    rates = [learning_rate(step, 1_000) for step in range(1_000)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < max(rates) / 20
