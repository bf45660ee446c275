"""What was found of prompts is kept: for the same order and files alone, and only as long as it is whole."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profiles.arm_schema import Arm
from tasks.node.engine_caches import CACHE_VARIABLE
from tasks.node.kept_prompts import keep, kept_path, read_kept
from tasks.node.prompt_check import sample_prompts
from tasks.node.prompt_lengths import PromptLengths
from tasks.node.prompt_sample import PromptOrder, PromptSample
from tasks.scoring.reasoning_opening import ReasoningOpening
from tests.support.chat_templates import CHATML, model_with

LENGTHS = PromptLengths(sampled=1, mean=2.5, p99=3, longest=3, shared_prefix=1.0)
FOUND = PromptSample(lengths=LENGTHS, openings=(ReasoningOpening(ids=(1, 2), text="<think>\n"),))
ARM = Arm(id="add", system_prompt="Add the numbers.")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PromptOrder:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "caches"))
    model = model_with(CHATML, tmp_path / "model")
    return PromptOrder(
        model_path=model, trust_remote_code=False, arms=(ARM,), questions=("1 + 1",), max_tokens=8, max_model_len=64
    )


def place(order: PromptOrder) -> Path:
    path = kept_path(order, os.environ)
    assert path is not None
    return path


def test_what_is_kept_is_read_instead_of_rendering_again(asked: PromptOrder) -> None:
    # nothing that a process would find
    keep(FOUND, place(asked))
    assert read_kept(place(asked), asked) == sample_prompts(asked, "") == FOUND


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": (Arm(id="add", system_prompt="Add them."),)},
        {"arms": (Arm(id="add", system_prompt="Add the numbers.", chat_template_kwargs={"enable_thinking": True}),)},
        {"questions": ("1 + 2",)},
    ],
)
def test_another_order_has_another_place(asked: PromptOrder, changes: dict[str, Any]) -> None:
    assert place(replace(asked, **changes)) != place(asked)


@pytest.mark.parametrize(("max_tokens", "found"), [(9, FOUND), (61, FOUND), (62, None)])
def test_it_is_for_every_run_that_leaves_the_longest_prompt_room(
    asked: PromptOrder, max_tokens: int, found: PromptSample | None
) -> None:
    keep(FOUND, place(asked))
    other = replace(asked, max_tokens=max_tokens)
    assert read_kept(place(other), other) == found


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "additional_chat_templates/tool.jinja"])
def test_other_files_of_the_model_have_another_place(asked: PromptOrder, name: str) -> None:
    before, file = place(asked), asked.model_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{file.read_text() if file.exists() else ''} ")
    assert place(asked) != before


def test_weights_have_no_part_in_it(asked: PromptOrder) -> None:
    before = place(asked)
    (asked.model_path / "model-2.safetensors").write_bytes(b"other")
    assert place(asked) == before


def test_what_a_models_code_does_is_not_kept(asked: PromptOrder) -> None:
    assert kept_path(replace(asked, trust_remote_code=True), os.environ) is None


@pytest.mark.parametrize("said", [{"problems": ("one",)}, {"warnings": ("one",)}])
def test_prompts_of_which_there_is_something_to_say_are_not_kept(asked: PromptOrder, said: dict[str, Any]) -> None:
    keep(replace(FOUND, **said), place(asked))
    assert not place(asked).exists()


@pytest.mark.parametrize(
    ("old", "new"), [('"longest": 3', '"longest": 4'), ('"longest": 3', '"longest": "many"'), ("}", ""), ("{", "")]
)
def test_a_damaged_file_is_not_used_and_written_again(asked: PromptOrder, old: str, new: str) -> None:
    path = place(asked)
    keep(FOUND, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert read_kept(path, asked) is None
    keep(FOUND, path)
    assert path.read_text() == text


def test_a_directory_that_takes_no_writes_costs_nothing(asked: PromptOrder) -> None:
    path = place(asked)
    path.parents[1].touch()
    assert read_kept(path, asked) is None
    keep(FOUND, path)
    assert path.parents[1].is_file()


def test_without_a_variable_it_is_kept_in_the_users_cache(asked: PromptOrder, tmp_path: Path) -> None:
    assert (
        kept_path(asked, {"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "rollout-harvest/prompts" / place(asked).name
    )
