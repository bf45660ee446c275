"""Prompts are rendered as generation does, before anything is loaded: what templates of others make of them."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from profiles.arm_schema import Arm, Turn
from tasks.errors import ConfigError
from tasks.node.kept_prompts import kept_path, read_kept
from tasks.node.prompt_check import sample_prompts, sample_questions
from tasks.node.prompt_sample import PromptOrder, PromptSample, examine_prompts, render_prompts
from tasks.plan.prompts import ChatTokenizer, encode_question
from tasks.scoring.reasoning_opening import ReasoningOpening
from tasks.subprocess_call import call_in_subprocess
from tests.support.chat_templates import CHATML, NO_SYSTEM, REFUSES_SYSTEM, THINKS, model_with, with_special_tokens

ADD = Arm(id="add", system_prompt="Add the numbers.")
BRIEF = Arm(id="brief", system_prompt="Be brief.")
BARE = Arm(id="bare", system_prompt="")
SHOTS = Arm(id="shots", system_prompt="", few_shot=(Turn(user="1 plus 1", assistant="2"),))
PLAIN = Arm(id="plain", system_prompt="", prompt_format="plain", template="{question} is ")
MANY_SHOTS = Arm(id="many", system_prompt="", few_shot=(Turn(user="1 plus 1", assistant="2"),) * 2000)
CUT = "^arm bare: the chat template leaves out a part of the question"
NO_ANSWER = "^arm .*: the chat template does not begin an answer"
QUESTIONS = ("two plus two", "three plus three plus three")


def order(model: Path, *arms: Arm, **more: Any) -> PromptOrder:
    settings = {"questions": QUESTIONS, "max_tokens": 16, "max_model_len": 256} | more
    return PromptOrder(model_path=model, trust_remote_code=False, arms=arms, **settings)


def examined(template: str, folder: Path, *arms: Arm, **more: Any) -> PromptSample:
    model = model_with(template, folder / "model")
    return examine_prompts(ChatTokenizer(model), order(model, *arms, **more))


@pytest.mark.parametrize("arms", [(ADD, BRIEF), (BARE,), (SHOTS, PLAIN)])
def test_nothing_is_said_of_usual_prompts(arms: tuple[Arm, ...], tmp_path: Path) -> None:
    found = examined(CHATML, tmp_path, *arms)
    assert (found.problems, found.warnings, found.openings) == ((), (), ())
    assert found.lengths is not None
    tokenizer = ChatTokenizer(tmp_path / "model")
    encoded = [encode_question(tokenizer, [arm], question)[arm.id] for arm in arms for question in QUESTIONS]
    assert found.lengths.longest == max(len(ids) for ids in encoded if isinstance(ids, list))


@pytest.mark.parametrize(
    ("template", "arms", "told"),
    [
        (
            REFUSES_SYSTEM,
            [BARE, ADD],
            r"^arm add: the chat template of .* does not take this prompt: no system role\. ",
        ),
        ("{{ nothing.at.all }}", [BARE], "^arm bare: .*UndefinedError|^arm bare: .*'nothing' is undefined"),
        ("{% if %}", [BARE], "^arm bare: .*Expected an expression"),
        ("{{ range(10 ** 9) | list }}", [BARE], "^arm bare: .*OverflowError: Range too big"),
        (CHATML.replace("content", "nothing"), [BARE], "^arm bare: the chat template leaves out the question"),
        ("{{ '' }}", [BARE], "^arm bare: the chat template leaves out the question"),
        (NO_SYSTEM, [ADD, BRIEF], "^arms add, brief ask with the same prompts, as .* leaves out the system message: "),
        (CHATML, [ADD, Arm(id="twin", system_prompt=ADD.system_prompt)], "^arms add, twin ask with the same prompts: "),
        (
            CHATML,
            [BARE, Arm(id="x", system_prompt="", chat_template_kwargs={"y": 1})],
            "^arms bare, x ask with the same",
        ),
    ],
)
def test_prompts_of_no_use_are_a_problem(template: str, arms: list[Arm], told: str, tmp_path: Path) -> None:
    (problem,) = examined(template, tmp_path, *arms).problems
    assert_matches(problem, told)


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"documents": "x"}, "Documents should be a list of dicts"),
        ({"tools": "x"}, "Tools should either be a JSON schema"),
        ({"tools": {"a": 1}}, "Tools should either be a JSON schema"),
        ({"strftime_now": "x"}, "'str' object is not callable"),
        ({"effort": "high"}, "effort must be a number"),
    ],
)
def test_arguments_that_the_template_rejects_are_a_problem(kwargs: dict[str, Any], told: str, tmp_path: Path) -> None:
    template = (
        "{% if effort is defined and effort is string %}{{ raise_exception('effort must be a number') }}{% endif %}"
        "{{ strftime_now('%Y') }}" + CHATML
    )
    arm = Arm(id="a", system_prompt="", chat_template_kwargs=kwargs)
    (problem,) = examined(template, tmp_path, arm).problems
    assert_matches(problem, f"^arm a: .*does not take this prompt: .*{told}")


@pytest.mark.parametrize(
    ("template", "arm", "told"),
    [
        (NO_SYSTEM, ADD, "^arm add: the chat template leaves out the system message, so the model never sees it"),
        (
            CHATML.replace("in messages", "in messages[-1:]"),
            SHOTS,
            "^arm shots: the chat template leaves out the user message and the assistant message",
        ),
        (
            "{% if 'three' in messages[-1].content %}{{ raise_exception('no three') }}{% endif %}" + CHATML,
            BARE,
            "^arm bare: 1 of 2 sampled prompts cannot be made, and such rollouts become error rows: .* no three",
        ),
        (
            CHATML.replace("in messages", "in messages[:2]") + "{{ messages[-1].content }}",
            MANY_SHOTS,
            "^arm many: the chat template leaves out the user message and the assistant message",
        ),
        (CHATML.replace("content", "content[:20]"), BARE, CUT),
        (CHATML.replace("content", "content[-20:]"), BARE, CUT),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", BARE, NO_ANSWER),
        (CHATML.removesuffix("<|im_start|>assistant\n"), SHOTS, NO_ANSWER),
        ("{{ strftime_now('%d %B %Y') }}" + CHATML, BARE, "^arm bare: the same prompt is not always rendered alike"),
        ("{{ range(100000) | random }}" + CHATML, BARE, "^arm bare: the same prompt is not always rendered alike"),
    ],
)
def test_prompts_that_nobody_meant_are_told(template: str, arm: Arm, told: str, tmp_path: Path) -> None:
    found = examined(template, tmp_path, arm)
    assert found.problems == ()
    (warning,) = found.warnings
    assert_matches(warning, told)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("<|im_start|>assistant\n", "")
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        THINKS,
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "{{ messages[-1].content }}",
    ],
    ids=["a switch", "always", "nothing is needed", "text", "the last message"],
)
def test_templates_that_need_no_other_beginning_of_an_answer(template: str, tmp_path: Path) -> None:
    assert examined(template, tmp_path, BARE).warnings == ()


def test_a_date_that_is_given_is_no_date_of_today(tmp_path: Path) -> None:
    template = "{% if date is not defined %}{% set date = strftime_now('%Y') %}{% endif %}{{ date }}" + CHATML
    arm = Arm(id="a", system_prompt="", chat_template_kwargs={"date": "1 May 2026"})
    assert examined(template, tmp_path, arm).warnings == ()


@pytest.mark.parametrize(
    ("max_tokens", "num_too_long"), [(16, 0), (256 - 12, 1), (250, 2)], ids=["both fit", "one fits", "none fits"]
)
def test_prompts_without_room_are_told_with_numbers(max_tokens: int, num_too_long: int, tmp_path: Path) -> None:
    questions = ("2 plus 2", "2 plus 2 " * 10)
    found = examined(CHATML, tmp_path, PLAIN, questions=questions, max_tokens=max_tokens)
    assert found.lengths is not None
    assert len(found.warnings) == bool(num_too_long)
    for warning in found.warnings:
        assert warning.startswith(f"arm plain: {num_too_long} of 2 sampled prompts are too long")
        assert f"up to {found.lengths.longest} tokens, where max_model_len 256 leaves {256 - max_tokens} " in warning
    assert len(found.problems) == (num_too_long == 2)
    for problem in found.problems:
        assert f"to {found.lengths.longest} tokens, where max_model_len 256 leaves 6 beside max_tokens 250" in problem


@pytest.mark.parametrize(
    ("template", "opened"),
    [
        (CHATML, []),
        (THINKS, ["<think>\n"]),
        (CHATML + "<think>", ["<think>"]),
        (CHATML + "<think>\n\n</think>{{ '\n\n' }}", []),
        (CHATML + "<think>\nOkay, ", ["<think>\nOkay, "]),
        (CHATML + "[THINK]", ["[THINK]"]),
        (CHATML + "◁think▷", ["◁think▷"]),
        (CHATML + "<|begin_of_thought|>", ["<|begin_of_thought|>"]),
        (CHATML + "<Reasoning>", ["<Reasoning>"]),
        ("{{ messages[0].content }} Begin with <think>. Q: {{ messages[-1].content }} A:", []),
        ("<think> {{ messages[-1].content }} A:", []),
    ],
)
def test_the_end_of_a_prompt_tells_whether_reasoning_is_open(template: str, opened: list[str], tmp_path: Path) -> None:
    arm = Arm(id="a", system_prompt="Reason in <think> tags.")
    found = examined(template, tmp_path, arm)
    assert [opening.text for opening in found.openings] == opened
    tokenizer = ChatTokenizer(tmp_path / "model")
    for opening in found.openings:
        ids = encode_question(tokenizer, [arm], QUESTIONS[0])["a"]
        assert isinstance(ids, list)
        assert tuple(ids[-len(opening.ids) :]) == opening.ids


def test_a_closing_tag_that_completions_do_not_show_is_told(tmp_path: Path) -> None:
    model = with_special_tokens(model_with(THINKS, tmp_path / "model"), "<think>", "</think>")
    found = examine_prompts(ChatTokenizer(model), order(model, BARE))
    assert found.openings == ()
    assert "completions do not show where that reasoning ends" in found.warnings[0]


def test_a_plain_prompt_may_open_reasoning(tmp_path: Path) -> None:
    arm = Arm(id="a", system_prompt="", prompt_format="plain", template="{question}\nAnswer: <think>")
    assert [opening.text for opening in examined(CHATML, tmp_path, arm).openings] == ["<think>"]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            r"arm bare: its prompts are not finished.*a loop that does not end in the chat template of",
        ),
        ("{{ 'x' * 10 ** 11 }}", "arm bare: .*does not take this prompt: MemoryError"),
    ],
    ids=["loops", "allocates"],
)
def test_a_template_without_end_is_ended(template: str, told: str, tmp_path: Path) -> None:
    asked = order(model_with(template, tmp_path / "model"), BARE)
    try:
        found = call_in_subprocess(render_prompts, "prompts", tmp_path / "log", asked, cpu_seconds=1)
    except ConfigError as error:
        assert_matches(str(error), told)
    else:
        assert_matches(found.problems[0], told)


def test_a_sample_comes_from_a_process_of_its_own(tmp_path: Path) -> None:
    asked = order(model_with(THINKS, tmp_path / "model"), ADD)
    found = sample_prompts(asked, "")
    assert found == examine_prompts(ChatTokenizer(asked.model_path), asked)
    assert isinstance(found.openings[0], ReasoningOpening)
    assert sample_prompts(asked, "") is found
    kept = kept_path(asked, os.environ)
    assert kept is not None
    assert read_kept(kept, asked) == found


@pytest.mark.parametrize(
    ("questions", "arms", "size", "among"),
    [
        ([], 1, 0, []),
        (["", ""], 1, 0, []),
        (["a", "", "a"], 1, 1, ["a"]),
        (
            [f"question {number}" for number in range(999)] + ["2", "the longest question"],
            8,
            66,
            ["2", "the longest question"],
        ),
        (["x" * 99_000, "y" * 99_001, *(f"{number}" * 90_000 for number in range(9))], 5, 5, ["y" * 99_001]),
        (["x" * 200_000, "short"], 1, 1, ["short"]),
        (["x" * 300_000, "y" * 200_000], 1, 1, ["y" * 200_000]),
    ],
)
def test_a_sample_has_the_longest_and_the_shortest_question(
    questions: list[str], arms: int, size: int, among: list[str]
) -> None:
    sample = sample_questions(questions, [BARE] * arms)
    assert (len(sample), set(among) <= set(sample)) == (size, True)


@pytest.mark.parametrize(
    "arm",
    [
        Arm(id="words", system_prompt="x" * 1_000_000),
        Arm(id="turns", system_prompt="", few_shot=(Turn(user="2", assistant="2"),) * 14_000),
    ],
)
def test_a_sample_is_smaller_when_prompts_are_long(arm: Arm) -> None:
    questions = [f"question {number}" for number in range(100, 199)]
    assert len(sample_questions(questions, [BARE])) > 60
    assert len(sample_questions(questions, [arm])) <= 4


def assert_matches(text: str, pattern: str) -> None:
    assert re.search(pattern, text), text
