"""Questions become prompts: chats and plain texts, chat template arguments, stop strings and the fingerprint."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles.arm_schema import RESERVED_TEMPLATE_KWARGS, Arm, ArmSet, Turn
from profiles.load import DEMO_MODEL, SettingsError, load_arms, parse_settings
from tasks.errors import ConfigError
from tasks.plan.prompts import (
    ChatTokenizer,
    arms_as_asked,
    build_messages,
    encode_question,
    has_chat_template,
    until_stop,
)
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tests.support.light_tokenizer import LightTokenizer

FEW_SHOT = (Turn(user="1 + 1?", assistant="2"),)


def plan(tmp_path: Path, **parameters: Any) -> RunPlan:
    return plan_run(config_from_parameters({"questions": 2, **parameters}), tmp_path)


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    """The demo model without its chat template."""
    model = tmp_path / "base"
    shutil.copytree(DEMO_MODEL, model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize(
    ("arm", "text"),
    [
        (
            Arm(id="abel", system_prompt="", prompt_format="plain"),
            "Question:\nWhy {question}?\nAnswer:\nLet's think step by step.\n",
        ),
        (
            Arm(id="own", system_prompt="Be brief.", prompt_format="plain", template="Q: {question}\nA: "),
            "Be brief.\n\nQ: Why {question}?\nA: ",
        ),
        (
            Arm(id="shots", system_prompt="", few_shot=FEW_SHOT, prompt_format="plain", template="Q: {question}\nA: "),
            "Q: 1 + 1?\nA: 2\n\nQ: Why {question}?\nA: ",
        ),
    ],
)
def test_a_plain_prompt_is_one_text(arm: Arm, text: str) -> None:
    assert build_messages(arm, "Why {question}?") == [{"role": "text", "content": text}]


def test_few_shot_turns_come_before_the_question() -> None:
    messages = build_messages(Arm(id="a", system_prompt="Add.", few_shot=FEW_SHOT), "2 + 2?")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"template": "{question}"}, 'needs prompt_format = "plain"'),
        ({"prompt_format": "plain", "template": "no place"}, "must contain {question}"),
        ({"prompt_format": "plain", "chat_template_kwargs": {"x": 1}}, 'need prompt_format = "chat"'),
        ({"chat_template_kwargs": {"tokenize": False}}, "may not set tokenize"),
        ({"prompt_format": "poem"}, "prompt_format is 'poem'"),
    ],
)
def test_bad_arms_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parse_settings({"id": "a", "system_prompt": "", **values}, Arm, "arm")


@pytest.mark.parametrize(
    ("text", "stop", "cut"),
    [
        ("a\n#### 4\nQuestion:", ("Question:",), "a\n#### 4\n"),
        ("a b c", ("c", "b"), "a "),
        ("a", (), "a"),
        ("a", ("b",), "a"),
    ],
)
def test_text_is_cut_at_the_first_stop_string(text: str, stop: tuple[str, ...], cut: str) -> None:
    assert until_stop(text, stop) == cut


def test_a_plain_prompt_has_no_tokens_but_those_of_its_text(base_model: Path) -> None:
    tokenizer = ChatTokenizer(base_model)
    arm = Arm(id="own", system_prompt="", prompt_format="plain", template="{question} is ")

    ids = tokenizer.encode(build_messages(arm, "2 plus 2"), {})
    assert tokenizer.decode(ids) == "2 plus 2 is "
    with pytest.raises(ConfigError, match="--prompt-format plain"):
        tokenizer.encode(build_messages(Arm(id="a", system_prompt="Add."), "2 plus 2"), {})


@pytest.mark.parametrize("kind", ["chats", "texts", "of both kinds", "by the model's own code"])
def test_prompts_encoded_together_are_the_same_as_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ChatTokenizer(DEMO_MODEL)
    chats = [Arm(id="short", system_prompt="Add."), Arm(id="shots", system_prompt="Add up.", few_shot=FEW_SHOT)]
    texts = [Arm(id="plain", system_prompt=words, prompt_format="plain") for words in ("", "Be brief.")]
    arms = {"texts": texts, "of both kinds": [*chats, *texts]}.get(kind, chats)
    if kind == "by the model's own code":
        own = type(tokenizer._tokenizer)

        def one_chat(self: Any, chat: list[dict[str, str]], **options: Any) -> Any:
            assert isinstance(chat[0], dict)
            return super(own, self).apply_chat_template(chat, **options)

        monkeypatch.setattr(own, "apply_chat_template", one_chat, raising=False)
    prompts = [build_messages(arm, "2 plus 2") for arm in arms]
    assert tokenizer.encode_all(prompts, {}) == [tokenizer.encode(messages, {}) for messages in prompts]


def test_the_chat_template_gets_its_arguments(base_model: Path) -> None:
    template = (
        "{% if enable_thinking %}think {% endif %}{% if tools %}{{ tools | length }} tools {% endif %}"
        "{{ messages[-1].content }}"
    )
    (base_model / "chat_template.jinja").write_text(template)
    tokenizer = ChatTokenizer(base_model)
    messages = build_messages(Arm(id="a", system_prompt=""), "2 plus 2")

    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}
    assert tokenizer.decode(tokenizer.encode(messages, {"enable_thinking": True})) == "think 2 plus 2"
    assert tokenizer.decode(tokenizer.encode(messages, {"tools": [tool]})) == "1 tools 2 plus 2"
    assert tokenizer.decode(tokenizer.encode(messages)) == "2 plus 2"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ none + 1 }}", "TypeError: unsupported operand"),
    ],
)
def test_a_refusal_by_the_chat_template_is_one_clear_error(base_model: Path, template: str, told: str) -> None:
    (base_model / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=f"does not take this prompt: {told}"):
        ChatTokenizer(base_model).encode([{"role": "user", "content": "x"}])


def test_a_refusal_is_told_of_the_arm_that_is_refused(base_model: Path) -> None:
    template = "{% if 'x' in messages[0].content %}{{ raise_exception('no\nx') }}{% endif %}{{ messages[0].content }}"
    (base_model / "chat_template.jinja").write_text(template)
    arms = [Arm(id=words, system_prompt=words) for words in ("a", "ax", "b")]
    found = encode_question(ChatTokenizer(base_model), arms, "2 plus 2")
    assert [arm for arm, ids in found.items() if isinstance(ids, ConfigError)] == ["ax"]
    assert "does not take this prompt: no⏎x. " in str(found["ax"])


def test_the_tokenizer_of_fake_engines_is_that_of_transformers() -> None:
    from transformers import AutoTokenizer

    real, light = AutoTokenizer.from_pretrained(DEMO_MODEL), LightTokenizer(DEMO_MODEL)
    chats = [build_messages(arm, "What is 7 + 8?\n Café, naïve, 100 % 😀") for arm in load_arms(None).arms]
    for tokenize, begin_answer in ((True, True), (False, False)):
        asked = {"tokenize": tokenize, "add_generation_prompt": begin_answer, "return_dict": False}
        assert light.apply_chat_template(chats, **asked) == real.apply_chat_template(chats, **asked)
    assert light("plain 12") == {"input_ids": real("plain 12")["input_ids"]}
    for ids in (real.apply_chat_template(chats[0], return_dict=False), list(range(95)), [5, 250, 251, 2]):
        for skip in (True, False):
            assert light.decode(ids, skip_special_tokens=skip) == real.decode(ids, skip_special_tokens=skip)


def test_no_argument_sets_what_the_renderer_sets() -> None:
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_template_utils import render_jinja_template

    taken = {
        name
        for function in (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    # the template reads these two
    assert taken - {"tools", "documents"} <= RESERVED_TEMPLATE_KWARGS
    for name in sorted(RESERVED_TEMPLATE_KWARGS):
        with pytest.raises(SettingsError, match=f"may not set {name}, which"):
            parse_settings({"id": "a", "system_prompt": "", "chat_template_kwargs": {name: []}}, Arm, "arm")


def test_a_base_model_needs_plain_prompts(base_model: Path, tmp_path: Path) -> None:
    assert (has_chat_template(base_model), has_chat_template(DEMO_MODEL)) == (False, True)
    with pytest.raises(ConfigError, match="--prompt-format plain"):
        plan(tmp_path, model=str(base_model))
    asked = plan(tmp_path, model=str(base_model), prompt_format="plain").arms
    assert {arm.prompt_format for arm in asked.arms} == {"plain"}


def test_prompt_settings_of_the_run_override_the_arms() -> None:
    arms = ArmSet(
        arms=(
            Arm(id="think", system_prompt="", chat_template_kwargs={"enable_thinking": True, "budget": 5}),
            Arm(id="text", system_prompt="", prompt_format="plain", template="{question}:"),
        )
    )
    chats = arms_as_asked(arms, config_from_parameters({"chat_template_kwargs": '{"enable_thinking": false}'}))
    assert [arm.chat_template_kwargs for arm in chats.arms] == [{"enable_thinking": False, "budget": 5}, {}]
    texts = arms_as_asked(arms, config_from_parameters({"prompt_format": "plain", "prompt_template": "{question}?"}))
    assert [(arm.prompt_format, arm.template) for arm in texts.arms] == [("plain", "{question}?")] * 2
    assert arms_as_asked(arms, config_from_parameters({})) == arms


@pytest.mark.parametrize(
    "parameters",
    [
        {"stop": ["Question:"]},
        {"prompt_format": "plain"},
        {"prompt_format": "plain", "prompt_template": "{question}"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_prompt_settings_change_the_fingerprint(parameters: dict[str, Any], tmp_path: Path) -> None:
    usual, other = plan(tmp_path), plan(tmp_path, **parameters)
    assert other.fingerprint != usual.fingerprint
    assert other.comparable != usual.comparable
    assert other.fingerprint == plan(tmp_path, **parameters).fingerprint


def test_a_default_given_explicitly_keeps_the_fingerprint(tmp_path: Path) -> None:
    assert plan(tmp_path, prompt_format="chat", stop=[]).fingerprint == plan(tmp_path).fingerprint
    path = tmp_path / "template.txt"
    path.write_text("{question}")
    text = {"prompt_format": "plain", "prompt_template": "{question}"}
    assert plan(tmp_path, **{**text, "prompt_template": str(path)}).fingerprint == plan(tmp_path, **text).fingerprint


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"prompt_template": "{question}"}, "no arm is plain"),
        ({"prompt_format": "plain", "prompt_template": "nothing"}, "must contain {question}"),
        ({"prompt_format": "plain", "prompt_template": "missing.txt"}, "cannot be read"),
        ({"prompt_format": "plain", "chat_template_kwargs": "{}x"}, "not valid JSON"),
        ({"prompt_format": "plain", "chat_template_kwargs": '{"a": 1}'}, "every arm is plain"),
        ({"chat_template_kwargs": "[1]"}, "chat_template_kwargs"),
        ({"chat_template_kwargs": '{"tokenize": false}'}, "may not set tokenize"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["x"], "lengths": "lognormal"}, "stop or lengths"),
    ],
)
def test_bad_input_is_one_clear_error(parameters: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        plan(tmp_path, **parameters)
    assert "\n" not in str(caught.value)


def test_shipped_arms_are_chats() -> None:
    assert {arm.prompt_format for arm in load_arms(None).arms} == {"chat"}
