"""The options of ``harvest run`` and the flow's parameters, one from the other."""

import argparse
from typing import Any

import pytest

from flows.cli import build_parser
from flows.commands.run import add_run_options, as_options, run_parameters


def test_parameters_as_options_are_read_back_as_they_were() -> None:
    parameters: dict[str, Any] = {
        "profile": "cpu-demo",
        "questions": 4,
        "temperature": 0.5,
        "filters": ["level = 5", "answer ~ ^-"],
        "stop": ["\n\n", "-- end"],
        "streaming": True,
        "chat_template_kwargs": '{"enable_thinking": false}',
        "runs_dir": "some where",
    }
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    assert run_parameters(parser.parse_args(as_options(parameters))) == parameters


def test_what_a_flow_has_and_no_option_says() -> None:
    assert as_options({"chat_template_kwargs": {"a": True}, "model": None, "streaming": False}) == [
        '--chat-template-kwargs={"a": true}'
    ]


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ([], {}),
        (["--questions", "200"], {"questions": 200}),
        (["--n-samples", "200"], {"questions": 200}),
        (["--stop", "a", "--stop", "b", "--json", "--verbose"], {"stop": ["a", "b"]}),
        (["--filter", "level=5", "--streaming"], {"filters": ["level=5"], "streaming": True}),
    ],
)
def test_only_what_was_given_is_a_parameter(arguments: list[str], parameters: dict[str, object]) -> None:
    assert run_parameters(build_parser().parse_args(["run", *arguments])) == parameters
