"""Transformers and vLLM load the committed demo model as it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.demo.questions import generate_questions
from profiles.load import DEMO_MODEL, load_arms

# every process of the suite imports this file, and one runs its tests: torch is imported there, for seconds
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_WEIGHT_BYTES = 8 * 2**20
GSM8K_QUESTION = (
    "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much in "
    "dollars does she make every day at the farmers' market?"
)


@pytest.fixture(scope="module")
def tokenizer() -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def test_weights_are_small_safetensors() -> None:
    weights = [path for path in DEMO_MODEL.iterdir() if path.suffix in {".safetensors", ".bin", ".pt"}]
    assert [path.name for path in weights] == ["model.safetensors"]
    assert weights[0].stat().st_size <= MAX_WEIGHT_BYTES


def test_it_is_a_qwen2_that_the_cpu_profile_can_run() -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(DEMO_MODEL)
    assert config.architectures == ["Qwen2ForCausalLM"]
    assert config.hidden_size // config.num_attention_heads in (32, 64)
    assert config.max_position_embeddings >= 2048


def test_transformers_loads_it_completely() -> None:
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, output_loading_info=True)
    assert isinstance(model, Qwen2ForCausalLM)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.num_parameters() < 5_000_000


def test_embedding_rows_match_the_vocabulary(tokenizer: "PreTrainedTokenizerBase") -> None:
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(DEMO_MODEL).vocab_size == len(tokenizer)


@pytest.mark.parametrize("number", ["0", "7", "42", "1024", "80000"])
def test_digits_are_single_tokens(tokenizer: "PreTrainedTokenizerBase", number: str) -> None:
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, number)) == list(number)


@pytest.mark.parametrize(
    "text",
    [
        GSM8K_QUESTION,
        *(row.question for row in generate_questions(5)),
        *(arm.system_prompt for arm in load_arms(None).arms),
        "  two  spaces\n\n\ttab — “quotes” é 日本語 🙂 #### 1,234",
    ],
)
def test_text_survives_the_tokenizer(tokenizer: "PreTrainedTokenizerBase", text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_the_demo_language_is_a_token_a_word(tokenizer: "PreTrainedTokenizerBase") -> None:
    for row in generate_questions(50):
        words = row.question.replace("?", " ?").replace(".", " .").replace(",", " ,").replace("$", "$ ").split()
        digits = sum(character.isdigit() for character in row.question)
        assert len(ids(tokenizer, row.question)) <= len(words) + 2 * digits


def test_the_chat_template_is_chatml(tokenizer: "PreTrainedTokenizerBase") -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "#### 4"},
        {"role": "user", "content": "3 + 3?"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n#### 4<|im_end|>\n<|im_start|>user\n3 + 3?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_generation_stops_at_the_end_of_a_turn(tokenizer: "PreTrainedTokenizerBase") -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == end
    for name in ("config.json", "generation_config.json"):
        assert json.loads((Path(DEMO_MODEL) / name).read_text())["eos_token_id"] == end


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With so small a model, threads mostly wait for each other: ten times the work where cores are few."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_arms_differ_and_completions_end() -> None:
    from profiles.demo.evaluate import measure

    figures = {arm.arm_id: arm for arm in measure(DEMO_MODEL, 60, seed=0, temperature=0.7)}
    rewards = [arm.reward for arm in figures.values()]
    assert 0.4 <= sum(rewards) / len(rewards) <= 0.95
    assert max(rewards) - min(rewards) >= 0.1
    assert sum(arm.ended for arm in figures.values()) / len(figures) > 0.95
    assert figures["direct"].tokens < figures["concise"].tokens < figures["tutor"].tokens
