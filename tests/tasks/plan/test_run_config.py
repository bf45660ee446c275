"""The flow's parameters become one record."""

from typing import Any

import pytest

from tasks.errors import ConfigError
from tasks.plan.run_config import DEFAULT_TOP_LOGPROBS, config_from_parameters


@pytest.mark.parametrize(
    ("parameters", "stored"),
    [
        pytest.param({}, 0, id="a run"),
        pytest.param({"baseline": "auto"}, DEFAULT_TOP_LOGPROBS, id="a run that is compared"),
        pytest.param({"profile": "h100x8-baseline"}, DEFAULT_TOP_LOGPROBS, id="a run that others are compared with"),
        pytest.param({"profile": "h100x8-baseline", "top_logprobs": 0}, 0, id="as the user says"),
        pytest.param({"baseline": "auto", "top_logprobs": 20}, 20, id="as the user says, more"),
        pytest.param({"profile": "no-such-profile"}, 0, id="a profile that is refused later"),
    ],
)
def test_runs_that_are_compared_store_top_logprobs(parameters: dict[str, Any], stored: int) -> None:
    assert config_from_parameters(parameters).sampling.top_logprobs == stored


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('{"a": 1, "a": 2}', "not valid JSON: it has 'a' twice. Give an object"),
        ('{"a": {"b": 1, "b": 2}}', "not valid JSON: it has 'b' twice"),
        ("null", "chat_template_kwargs is null. Give an object"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "not valid JSON"),
    ],
)
def test_template_arguments_that_leave_a_doubt_are_refused(given: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_from_parameters({"chat_template_kwargs": given})
