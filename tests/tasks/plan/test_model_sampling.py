"""The model's own generation_config.json: what a run takes from it, and what of the model its sampling must fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import ConfigError
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tests.support.fake_profile import write_fake_profile

QWEN = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "eos_token_id": [2],
}


def model(tmp_path: Path, generation: Any, config: dict[str, Any] | None = None) -> str:
    """Make a copy of the demo model with another generation_config.json, and fields of its config.json."""
    path = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, path, dirs_exist_ok=True)
    file = path / "generation_config.json"
    file.unlink()
    if generation is not None:
        file.write_text(generation if isinstance(generation, str) else json.dumps(generation))
    known = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(known | (config or {})))
    return str(path)


def plan(tmp_path: Path, **parameters: Any) -> RunPlan:
    given = {"questions": 2, "profile": "cpu-demo", "max_tokens": 32} | parameters
    return plan_run(config_from_parameters(given), tmp_path / "runs")


@pytest.mark.parametrize(
    ("generation", "given", "taken"),
    [
        pytest.param(
            QWEN,
            {},
            {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05},
            id="all that it says",
        ),
        pytest.param(
            QWEN,
            {"temperature": 0.7, "top_k": 0},
            {"top_p": 0.95, "repetition_penalty": 1.05},
            id="what is stated wins, also at its default",
        ),
        pytest.param({}, {}, {"temperature": 1.0}, id="nothing: vLLM's own temperature"),
        pytest.param({"do_sample": False, "top_p": 0.9}, {}, {"temperature": 0.0}, id="greedy"),
        pytest.param({"do_sample": False}, {"temperature": 0.5}, {}, id="not greedy, as stated"),
        pytest.param(
            {"top_k": 50.0, "min_p": None}, {}, {"temperature": 1.0, "top_k": 50}, id="null and a whole float"
        ),
    ],
)
def test_a_run_takes_what_is_not_stated(
    tmp_path: Path, generation: Any, given: dict[str, Any], taken: dict[str, float]
) -> None:
    found = plan(tmp_path, model=model(tmp_path, generation), sampling="model", **given)
    assert found.model_sampling == taken
    sampling = found.config.sampling
    assert {name: getattr(sampling, name) for name in taken | given} == taken | given
    assert found.to_json().get("model_sampling", {}) == taken
    assert [told for told in found.choices if "generation_config.json" in told] == ([found.choices[0]] if taken else [])
    assert all(f"{name} {value}" in found.choices[0] for name, value in taken.items())
    # the run is that of the values, whatever they came from
    stated = plan(tmp_path, model=str(found.model.path), **(taken | given))
    assert (stated.fingerprint, stated.config) == (found.fingerprint, found.config)
    assert stated.model_sampling == {}


@pytest.mark.parametrize(
    ("generation", "given", "told"),
    [
        pytest.param(None, {}, "generation_config.json is missing.*--temperature", id="no file"),
        pytest.param("{", {}, "generation_config.json cannot be read", id="no JSON"),
        pytest.param([1], {}, "not a JSON object", id="no object"),
        pytest.param({"top_p": "0.9"}, {}, "has top_p '0.9'; it must be a number", id="text for a number"),
        pytest.param({"top_k": True}, {}, "has top_k True; it must be a number", id="a flag for a number"),
        pytest.param({"top_k": 1.5}, {}, "top_k 1.5 come from .*generation_config.json", id="half a token"),
        pytest.param({"top_p": 1.5}, {}, "top_p.*come from .*generation_config.json", id="out of bounds"),
        pytest.param(
            {"do_sample": False}, {"samples_per_arm": 2}, "samples_per_arm is 2 at temperature 0", id="greedy"
        ),
        pytest.param({"top_p": 0.9}, {"sampling_mask": True}, "--top-k, such as 512", id="a mask without top_k"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_error(
    tmp_path: Path, generation: Any, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(tmp_path, model=model(tmp_path, generation), sampling="model", **given)
    assert not (tmp_path / "runs").exists()


VOCABULARY = json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"stop_token_ids": [1, VOCABULARY]},
            f"stop_token_ids has {VOCABULARY}, but the vocabulary.*{VOCABULARY:,} tok",
        ),
        ({"sampling_mask": True, "top_k": 5}, "sampling_mask cannot be had under profile cpu-demo: .*CPU backend"),
        ({"routed_experts": True}, "routed_experts cannot be had under profile cpu-demo: .*Use a GPU profile"),
        ({"profile": "h200x1", "routed_experts": True}, "needs a mixture of experts.*dense model"),
    ],
)
def test_what_model_or_engine_cannot_do_is_refused(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(tmp_path, model="demo", **given)


def test_what_they_can_do_is_planned(tmp_path: Path) -> None:
    mixture = model(tmp_path, {}, {"num_experts": 8})
    on_gpu = {"profile": "h200x1", "model": mixture, "top_k": 5, "stop_token_ids": [VOCABULARY - 1]}
    kept = plan(tmp_path, **on_gpu, sampling_mask=True, routed_experts=True, bad_words=["yes", "no"])
    plain = plan(tmp_path, **on_gpu, bad_words=["yes", "no"])
    # what is stored makes another run, but one that can be compared
    assert kept.fingerprint != plain.fingerprint
    assert kept.comparable == plain.comparable
    # an engine of a user's own may return what vLLM's CPU backend cannot
    own = plan(tmp_path, profile=str(write_fake_profile(tmp_path)), model="demo", top_k=5, sampling_mask=True)
    assert own.config.sampling.sampling_mask


def test_a_bad_word_of_which_the_tokenizer_makes_nothing_is_refused(tmp_path: Path) -> None:
    path = model(tmp_path, {})
    file = Path(path) / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    stripped = {"type": "Replace", "pattern": {"String": "zebra"}, "content": ""}
    file.write_text(json.dumps(tokenizer | {"normalizer": stripped}))
    plan(tmp_path, model=path, bad_words=["zebras"])
    with pytest.raises(ConfigError, match=r"bad_words has 'zebra', of which the tokenizer of .* makes no token"):
        plan(tmp_path, model=path, bad_words=["zebras", "zebra"])
