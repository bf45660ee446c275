"""Prompts of which nothing useful can come are refused in one line, before a server or an engine starts."""

import json
import re
from pathlib import Path

import pytest

from tests.support.chat_templates import CHATML, NO_SYSTEM, model_with
from tests.support.harvest_command import harvest_here

ARM = '[[arms]]\nid = "a"\nsystem_prompt = "Add."\n'


@pytest.mark.parametrize(
    ("template", "arms", "arguments", "told"),
    [
        (CHATML, ARM, ["--chat-template-kwargs", '{"messages": []}'], "may not set messages"),
        (CHATML, ARM + 'chat_template_kwargs = { conversation = "x" }', [], "may not set conversation"),
        # other problems: tests/tasks/node/test_prompt_sample.py
        (
            CHATML,
            ARM,
            ["--max-tokens", "2040"],
            "every sampled prompt is too long: .* leaves 8 beside --max-tokens 2,040",
        ),
    ],
)
def test_it_is_refused(
    template: str,
    arms: str,
    arguments: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "arms.toml").write_text(arms)
    model = model_with(template, tmp_path / "model")
    options = ["--model", model, "--arms", tmp_path / "arms.toml", "--questions", "2", "--max-tokens", "8", *arguments]
    for command in ("run", "plan"):
        assert harvest_here(command, *options, "--runs-dir", tmp_path / "runs") == 2
        printed = capsys.readouterr()
        assert re.search(told, printed.err), printed.err
        assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()


def test_a_plan_tells_what_nobody_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arms.toml").write_text(ARM)
    options = ["--model", model_with(NO_SYSTEM, tmp_path / "model"), "--arms", tmp_path / "arms.toml"]
    questions = ["--questions", "2", "--max-tokens", "8", "--runs-dir", tmp_path]
    assert harvest_here("plan", *options, *questions) == 0
    assert "warning: arm a: the chat template leaves out the system message" in " ".join(
        capsys.readouterr().out.split()
    )
    assert harvest_here("plan", *options, *questions, "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"][0].startswith("arm a: the chat template leaves out")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_position_embeddings": 32}, "max_model_len is 2048, but the model knows 32 positions"),
        ({"num_attention_heads": 0}, "config.json has num_attention_heads 0; it must be a whole number"),
    ],
)
def test_a_model_that_no_node_can_run_is_refused(
    changes: dict[str, int], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model_with(CHATML, tmp_path / "model") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    assert harvest_here("run", "--model", config.parent, "--questions", "2", "--runs-dir", tmp_path / "runs") == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()
