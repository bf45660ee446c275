"""Which sampling can be asked for, what of it fingerprints hold, and what it does to logprobs."""

import json
from typing import Any

import pytest

from flows.commands.cli import parse
from flows.commands.parameter_options import given_parameters
from flows.parameters import run_config
from tasks.errors import ConfigError
from tasks.generation.engine import sampling_values
from tasks.generation.rollout_request import build_request
from tasks.peers.contest import sampling_of
from tasks.plan.parameters import as_options
from tasks.plan.run_config import CONFIG_PARAMETERS, build_settings, config_from_parameters, parameters_of_config
from tasks.plan.sampling import LATER_FIELDS, Sampling, recorded_sampling, set_fields, told_fields, truncation_warning

ALL: dict[str, Any] = {
    "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05, "presence_penalty": -1.5,
    "frequency_penalty": 0.5, "min_tokens": 3, "stop": ["\n\n"], "stop_token_ids": [7, 9],
    "bad_words": ["-no", "never"], "repetition_detection": "20:8:2",
}  # fmt: skip
RULE: dict[str, Any] = {"max_samples_per_arm": 8, "sample_until": "mixed"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({"sample_until": "mixed"}, "Give max_samples_per_arm", id="a rule without an end"),
        pytest.param({"max_samples_per_arm": 8}, "no rule says", id="an end without a rule"),
        pytest.param({"wave_size": 2}, "no rule says", id="waves without a rule"),
        pytest.param(RULE | {"samples_per_arm": 8}, "no group could get more", id="an end below the first samples"),
        pytest.param(RULE | {"sample_until": "mixt"}, "give correct:K", id="no rule"),
        pytest.param(RULE | {"sample_until": "correct:9"}, "no group of up to 8 samples", id="a rule out of reach"),
        pytest.param(RULE | {"temperature": 0}, "max_samples_per_arm is 8 at temperature 0", id="a rule and no chance"),
        pytest.param(RULE | {"wave_size": 0}, "wave_size", id="empty waves"),
        pytest.param({"temperature": 2.5}, "temperature.*2", id="above vLLM's bound"),
        pytest.param({"temperature": 0.001}, "vLLM would sample at 0.01", id="below what vLLM samples at"),
        pytest.param({"top_k": -2}, "top_k", id="top_k below off"),
        pytest.param({"top_k": 2**31}, "top_k", id="top_k above"),
        pytest.param({"top_k": True}, "top_k", id="top_k no number"),
        pytest.param({"min_p": -0.1}, "min_p", id="min_p below"),
        pytest.param({"min_p": 1.1}, "min_p", id="min_p above"),
        pytest.param({"repetition_penalty": 0.0}, "repetition_penalty", id="repetition_penalty 0"),
        pytest.param({"repetition_penalty": float("inf")}, "repetition_penalty", id="repetition_penalty infinite"),
        pytest.param({"presence_penalty": 2.1}, "presence_penalty", id="presence_penalty above"),
        pytest.param({"frequency_penalty": -2.1}, "frequency_penalty", id="frequency_penalty below"),
        pytest.param({"min_tokens": -1}, "min_tokens", id="min_tokens below"),
        pytest.param({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9, above max_tokens 8", id="min over max"),
        pytest.param({"stop_token_ids": [-1]}, "stop_token_ids", id="no token id"),
        pytest.param({"bad_words": [""]}, "bad_words", id="empty bad word"),
        pytest.param({"bad_words": [" \n"]}, r"bad_words has ' \\n'.*no token", id="blank bad word"),
        pytest.param({"bad_words": ["a"] * 65}, "bad_words", id="too many bad words"),
        pytest.param({"repetition_detection": "20"}, "MAX_PATTERN_SIZE:MIN_COUNT", id="no count of repetitions"),
        pytest.param({"repetition_detection": "20:1"}, "MAX_PATTERN_SIZE:MIN_COUNT", id="one is no repetition"),
        pytest.param({"repetition_detection": "2:8:3"}, "MAX_PATTERN_SIZE:MIN_COUNT", id="sizes the wrong way round"),
        pytest.param({"repetition_detection": "2:8:1:1"}, "MAX_PATTERN_SIZE:MIN_COUNT", id="too many numbers"),
        pytest.param({"samples_per_arm": 2, "temperature": 0}, "at temperature 0, which gives the same", id="greedy"),
        pytest.param({"samples_per_arm": 2, "top_k": 1}, "at top_k 1, which gives the same", id="greedy by top_k"),
        pytest.param({"samples_per_arm": 2, "min_p": 1}, "at min_p 1, which gives the same", id="greedy by min_p"),
        pytest.param({"sampling_mask": True}, "top_k of at least 1.*--top-k, such as 512", id="mask without top_k"),
        pytest.param({"sampling_mask": True, "top_k": 5, "temperature": 0}, "temperature is 0", id="mask of greedy"),
        pytest.param({"lengths": "lognormal", "stop": ["a"]}, "Give stop or lengths", id="lengths and stop"),
        pytest.param({"lengths": "lognormal", "min_tokens": 2}, "Give min_tokens or lengths", id="lengths, min_tokens"),
        pytest.param({"lengths": "lognormal", "stop_token_ids": [1]}, "stop_token_ids or lengths", id="lengths, token"),
        pytest.param({"lengths": "lognormal", "repetition_detection": "9:9"}, "or lengths", id="lengths, repetition"),
        pytest.param({"sampling": "mine"}, "sampling", id="an unknown source"),
    ],
)
def test_what_cannot_be_sampled_is_one_error(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        config_from_parameters(given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"top_k": -1}, id="top_k -1"),
        pytest.param({"top_k": 0}, id="top_k 0"),
        pytest.param({"min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "min_tokens": 0}, id="all off"),
        pytest.param({"stop_token_ids": [], "bad_words": [], "stop": []}, id="empty lists"),
        pytest.param({"temperature": 0.7, "top_p": 1.0}, id="the defaults"),
        pytest.param({"sampling_mask": False, "routed_experts": False}, id="nothing stored"),
    ],
)
def test_what_is_off_is_as_if_it_was_not_given(given: dict[str, Any]) -> None:
    sampling = config_from_parameters(given).sampling
    assert sampling == Sampling()
    assert recorded_sampling(sampling) == {
        "temperature": 0.7, "top_p": 1.0, "max_tokens": 512, "samples_per_arm": 1,
    }  # fmt: skip
    assert set_fields(sampling) == {}


def test_fingerprints_hold_what_is_set_and_nothing_of_what_is_stored() -> None:
    config = config_from_parameters(ALL | {"sampling_mask": True, "routed_experts": True})
    expected = ALL | {"repetition_detection": {"max_pattern_size": 20, "min_count": 8, "min_pattern_size": 2}}
    assert recorded_sampling(config.sampling) == {**expected, "max_tokens": 512, "samples_per_arm": 1}
    assert {*LATER_FIELDS} == {*set_fields(config.sampling)}


def test_every_option_reaches_the_configuration_and_comes_back_from_it() -> None:
    given = ALL | {"sampling_mask": True, "routed_experts": True, "max_tokens": 64}
    options = parse(["run", *as_options(given, CONFIG_PARAMETERS)]).params
    config = run_config(given_parameters(options))
    assert config == run_config(given)
    again = parameters_of_config(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == given | {"profile": "auto"}


def test_a_request_has_all_under_vllms_names() -> None:
    sampling = config_from_parameters({**ALL, "max_tokens": 64}).sampling
    request = build_request("r", [1], sampling, "q", "a", 0)
    values = sampling_values(request)
    named = {**ALL, "repetition_detection": {"max_pattern_size": 20, "min_count": 8, "min_pattern_size": 2}}
    assert values == {**named, "max_tokens": 64, "ignore_eos": False}
    assert sampling_of(request) == values | {"seed": request.seed}
    plain = sampling_values(build_request("r", [1], Sampling(), "q", "a", 0))
    assert plain == {"max_tokens": 512, "temperature": 0.7, "top_p": 1.0, "ignore_eos": False}


@pytest.mark.parametrize(
    ("sampling", "cut"),
    [
        ({}, None),
        ({"top_p": 1.0, "top_k": 0, "min_p": 0.0}, None),
        ({"top_p": 0.8}, "that top_p 0.8 truncates"),
        ({"top_k": 20, "min_p": 0.1}, "that top_k 20, min_p 0.1 truncates"),
        ({"top_k": 20, "sampling_mask": True}, None),
        ({"top_p": 0.8, "temperature": 0.0}, None),
        ({"repetition_penalty": 1.2}, None),
    ],
)
def test_truncated_logprobs_without_a_mask_are_told(sampling: dict[str, Any], cut: str | None) -> None:
    told = truncation_warning(sampling)
    assert (told is None) == (cut is None)
    assert cut is None or (cut in str(told) and "--sampling-mask" in str(told))


def test_a_sampling_is_told_in_words() -> None:
    given = {"top_k": 20, "stop": ["a"], "min_p": 0.0}
    sampling = build_settings(Sampling, given).model_dump(mode="json")
    assert told_fields(sampling) == ["top_k 20", "stop ['a']"]
    assert told_fields({}) == []


def test_a_rule_is_no_part_of_how_a_rollout_is_sampled() -> None:
    given = {**RULE, "sample_until": "mixed:1 , width:0.50", "samples_per_arm": 3}
    sampling = config_from_parameters(given).sampling
    assert sampling.sample_until == "mixed,width:0.5"
    assert sampling.wave_ends == (3, 6, 8)
    assert recorded_sampling(sampling) == recorded_sampling(config_from_parameters({"samples_per_arm": 3}).sampling)
    assert parameters_of_config(run_config(given).model_dump(mode="json")).items() >= {
        ("sample_until", "mixed,width:0.5"),
        ("max_samples_per_arm", 8),
    }
