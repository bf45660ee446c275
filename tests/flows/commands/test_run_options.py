"""The options of ``harvest run`` and Prefect's form follow from the flow's parameters."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from flows.bench_flow import bench
from flows.collect import collect_rollouts
from flows.commands.cli import parse
from flows.commands.parameter_options import given_parameters
from flows.parameters import PARAMETERS
from profiles.load import profile_names
from tasks.plan.parameters import as_options
from tests.support.harvest_command import harvest_here


def test_options_made_from_parameters_give_the_same_parameters() -> None:
    parameters: dict[str, Any] = {
        "profile": "cpu-demo",
        "questions": 4,
        "temperature": 0.5,
        "filters": ["level = 5", "answer ~ ^-"],
        "stop": ["\n\n", "-- end"],
        "streaming": True,
        "engine": {"max_num_seqs": 8, "kv_cache_dtype": "fp8", "speculative_config": {"method": "ngram"}, "x": None},
        "chat_template_kwargs": '{"enable_thinking": false}',
        "runs_dir": "some where",
    }
    assert given_parameters(parse(["run", *as_options(parameters, PARAMETERS)]).params) == parameters


def test_none_and_false_become_no_option() -> None:
    assert as_options({"chat_template_kwargs": {"a": True}, "model": None, "streaming": False}, PARAMETERS) == [
        "--chat-template-kwargs",
        '{"a": true}',
    ]


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ([], {}),
        (["--questions", "200"], {"questions": 200}),
        (["--n-samples", "200"], {"questions": 200}),
        (["--stop", "a", "--stop", "b", "--json", "--verbose"], {"stop": ["a", "b"]}),
        (["--filter", "level=5", "--streaming"], {"filters": ["level=5"], "streaming": True}),
        (["--question-batch-size", "16"], {"question_batch_size": 16}),
        (["--question-batch-size", "auto"], {"question_batch_size": "auto"}),
        (["--seed", "{date}"], {"seed": "{date}"}),
        (["--engine", "max_num_seqs=8", "--engine", "kv=fp8"], {"engine": {"max_num_seqs": 8, "kv": "fp8"}}),
    ],
)
def test_only_given_options_become_parameters(arguments: list[str], parameters: dict[str, object]) -> None:
    assert given_parameters(parse(["run", *arguments]).params) == parameters


RECORDED = json.loads((Path(__file__).parents[2] / "data" / "parameters.json").read_text())
"""The forms, without descriptions and names of profiles, and the options that must not change by accident."""


@pytest.mark.parametrize("flow", [collect_rollouts, bench], ids=lambda flow: str(flow.name))
def test_a_form_has_the_recorded_fields(flow: Flow[..., Any]) -> None:
    form = flow.parameters.model_dump_for_openapi()
    for name, field in form["properties"].items():
        assert field.pop("description"), f"{name} has no description"
        if name == "profile":
            assert field["anyOf"][0].pop("enum") == ["auto", *profile_names()]
    assert form == RECORDED["forms"][flow.name]
    assert list(form["properties"]) == list(RECORDED["forms"][flow.name]["properties"])


@pytest.mark.parametrize("command", sorted(RECORDED["options"]))
def test_a_command_has_the_recorded_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here(command, "--help") == 0
    found = set(re.findall(r"(?<=[ ,])--[a-z-]+", capsys.readouterr().out.split("Examples:")[1]))
    assert found >= set(RECORDED["options"][command])
