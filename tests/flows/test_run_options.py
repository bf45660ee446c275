"""The options of ``harvest run`` as the flow's parameters."""

import pytest

from flows.cli import build_parser
from flows.commands.run import run_parameters


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
