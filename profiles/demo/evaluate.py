"""Measures the demo model on held-out questions: `python -m profiles.demo.evaluate --questions N`.

It uses transformers, so that the figures do not depend on the engine that the demo runs. Sampling is seeded.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from profiles.arm_schema import Arm
from profiles.demo.questions import DemoQuestion, generate_questions
from profiles.load import DEMO_MODEL, load_arms

MAX_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """Means over the questions under one arm. `reward` and `ended` are shares; `tokens` does not count the EOS."""

    arm_id: str
    reward: float
    ended: float
    tokens: float


def measure_arm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arm: Arm,
    questions: Sequence[DemoQuestion],
    temperature: float,
) -> ArmFigures:
    """One sample per question. The reward is 1 when the text after the last `####` is the answer, digit for digit."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": arm.system_prompt}, {"role": "user", "content": question.question}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for question in questions
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        sequences = model.generate(
            **inputs, do_sample=True, temperature=temperature, top_k=0, max_new_tokens=MAX_TOKENS
        )
    completions = sequences[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    ended = (completions == tokenizer.eos_token_id).any(dim=1)
    lengths = (completions != tokenizer.eos_token_id).logical_and(completions != tokenizer.pad_token_id).sum(dim=1)
    correct = [
        "####" in text and text.rsplit("####", 1)[1].strip() == question.answer.rsplit("####", 1)[1].strip()
        for text, question in zip(texts, questions, strict=True)
    ]
    return ArmFigures(
        arm_id=arm.id,
        reward=sum(correct) / len(questions),
        ended=ended.float().mean().item(),
        tokens=lengths.float().mean().item(),
    )


def measure(path: Path, count: int, seed: int, temperature: float) -> list[ArmFigures]:
    """Figures of every default arm on the first `count` questions of the `demo` dataset's test split."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    questions = generate_questions(count)
    return [measure_arm(model, tokenizer, arm, questions, temperature) for arm in load_arms(None).arms]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m profiles.demo.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args(argv)
    figures = measure(args.model, args.questions, args.seed, args.temperature)
    print(f"{'arm':<14} reward  ended by EOS  tokens")
    for arm in figures:
        print(f"{arm.arm_id:<14} {arm.reward:>6.3f}  {arm.ended:>12.3f}  {arm.tokens:>6.1f}")
    count = len(figures)
    mean = ArmFigures(
        arm_id="mean",
        reward=sum(arm.reward for arm in figures) / count,
        ended=sum(arm.ended for arm in figures) / count,
        tokens=sum(arm.tokens for arm in figures) / count,
    )
    print(f"{mean.arm_id:<14} {mean.reward:>6.3f}  {mean.ended:>12.3f}  {mean.tokens:>6.1f}")


if __name__ == "__main__":
    main()
