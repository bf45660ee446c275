"""The demo model's tokenizer: Qwen2's own (byte-level BPE, single-digit tokens), fitted to the demo's language."""

import json
import random
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from profiles.demo.questions import draw_problem
from profiles.demo.styles import STYLED_ARMS, completion

VOCAB_SIZE = 1024
"""An upper bound: the demo's texts run out of merges before that."""
CORPUS_PROBLEMS = 20_000
PAD, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _corpus(prompts: Sequence[str], seed: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer:{seed}")
    for text in ("system\n", "user\n", "assistant\n", *prompts):
        yield from [text] * 1_000
    for _ in range(CORPUS_PROBLEMS):
        problem = draw_problem(rng, "train")
        yield problem.question
        yield completion(problem, rng.choice(STYLED_ARMS))


def train_tokenizer(prompts: Sequence[str], seed: int) -> Qwen2Tokenizer:
    """A tokenizer fitted to the training questions, the answers' styles and the arms' system prompts."""
    # Loaders recognise a Qwen2 model by its config and build Qwen2's pre-tokenizer whatever tokenizer.json says, so the
    # merges have to be learnt on the pieces which that pre-tokenizer makes.
    qwen = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = qwen.normalizer, qwen.pre_tokenizer, qwen.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=[PAD, IM_START, IM_END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(prompts, seed), trainer)
    fitted = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=fitted["vocab"],
        merges=[tuple(merge) for merge in fitted["merges"]],
        unk_token=PAD,
        eos_token=IM_END,
        pad_token=PAD,
        additional_special_tokens=[IM_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )
