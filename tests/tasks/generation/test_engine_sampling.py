"""Each sampling parameter has its effect in vLLM's own engine: one engine, in a process of its own, for all of them."""

import json
from typing import Any

import pytest

from profiles.load import DEMO_MODEL
from tests.support.engine_script import run_engine_script

pytestmark = pytest.mark.slow

SAMPLED = 3
"""Requests under each way of sampling; they differ in their seeds."""
UNENDED: dict[str, Any] = {"temperature": 0.0, "min_tokens": 80, "max_tokens": 80}
"""Beyond its answer the model is less certain, and repeats itself."""
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 2.0},
    "top_k 1": {"temperature": 2.0, "top_k": 1},
    "min_p 1": {"temperature": 2.0, "min_p": 1.0},
    "top_k 2": {"temperature": 2.0, "top_k": 2, "top_logprobs": 3},
    "min_p": {"temperature": 2.0, "min_p": 0.5, "top_logprobs": 20},
    "repetition_penalty": UNENDED | {"repetition_penalty": 1.5},
    "frequency_penalty": UNENDED | {"frequency_penalty": 2.0},
    "presence_penalty": UNENDED | {"presence_penalty": 2.0},
    "seeded penalties": {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    "seeded penalties again": {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    "unended": UNENDED,
    "repetition_detection": UNENDED | {
        "min_tokens": 30, "frequency_penalty": -2.0, "repetition_detection": {"max_pattern_size": 20, "min_count": 3}
    },
}  # fmt: skip

_GENERATE = """
import json, os, sys
from pathlib import Path
from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.generation.engine_environment import engine_environment
from tasks.generation.vllm_engine import VllmEngine
settings = EngineSettings(
    dtype="float32", max_model_len=256, enforce_eager=True, enable_chunked_prefill=False, max_num_batched_tokens=512,
    max_num_seqs=32, kv_cache_space_gib=1,
)
os.environ |= engine_environment(settings, os.environ, on_gpu=False)
from tasks.generation.rollout_request import build_request
from tasks.plan.prompts import ChatTokenizer, build_messages
from tasks.plan.sampling import Sampling
from profiles.arm_schema import Arm
model, number, ways = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
tokenizer = ChatTokenizer(model)
ids = tokenizer.encode(build_messages(Arm(id="a", system_prompt="Add."), "Ana has 12 pens and buys 5 more. How many?"))
engine = VllmEngine(EngineSpec(model_path=model, settings=settings))
def generate(ways):
    for name, way in ways.items():
        sampling = Sampling(**{"max_tokens": 40} | way)
        for sample in range(number):
            engine.add(build_request(f"{name}/{sample}", ids, sampling, "q", "a", sample))
    found = {}
    while len(found) < number * len(ways):
        for output in engine.step():
            top = None if output.top_logprobs is None else [[float(x) for x in row] for row in output.top_logprobs]
            found[output.request_id] = {
                "ids": output.completion_ids, "ends": [output.finish_reason, output.stop_reason], "top": top,
                "logprobs": [float(x) for x in output.logprobs], "text": tokenizer.decode(output.completion_ids),
            }
    return found
made = generate(ways)
greedy = made["greedy/0"]
# a token in the middle of what greedy sampling makes, and its last word
token = greedy["ids"][len(greedy["ids"]) // 2]
word = greedy["text"].split()[-1]
after = {"stop_token_ids": {"temperature": 0.0, "stop_token_ids": [token]},
         "min_tokens over stop_token_ids":
             {"temperature": 0.0, "stop_token_ids": [token], "min_tokens": greedy["ids"].index(token) + 2},
         "bad_words": {"temperature": 0.0, "bad_words": [word]}}
made |= generate(after)
# what only a GPU's engine core tells: its outputs, made by hand, through the engine and vLLM's own output processor
import numpy as np
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import SamplingMaskLists
for name, way in {"held back": {}, "with a stop string": {"stop": ("zebra",)}}.items():
    engine.add(build_request(name, ids, Sampling(**way), "q", "a", 0))
running = [*engine._engine.output_processor.request_states]
experts = np.arange(20, dtype=np.uint8).reshape(5, 2, 2)
steps = [
    ([23], SamplingMaskLists(np.array([23, 4], dtype=np.int32)), experts[:3], None),
    ([302, 19], SamplingMaskLists(np.array([302, 19, 2], dtype=np.int32), np.array([0, 1, 3])), experts[3:], None),
    ([2], SamplingMaskLists(np.array([2], dtype=np.int32)), None, FinishReason.STOP),
]
told = {}
for tokens, mask, routes, reason in steps:
    outputs = [
        EngineCoreOutput(
            request_id=name, new_token_ids=[*tokens], new_sampling_mask=mask, routed_experts=routes,
            finish_reason=reason,
        )
        for name in running
    ]
    for output in engine._process(EngineCoreOutputs(outputs=outputs)):
        masks = output.sampling_mask
        told[output.request_id] = [output.completion_ids, masks.counts.tolist(), masks.ids.tolist(),
                                   output.routed_experts.tolist()]
print(json.dumps([made, token, word, told]), flush=True)
os._exit(0)
"""

Made = tuple[dict[str, dict[str, Any]], int, str, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def made() -> Made:
    found: Made = run_engine_script(_GENERATE, DEMO_MODEL, SAMPLED, json.dumps(WAYS))
    return found


def ids_of(made: Made, way: str) -> list[list[int]]:
    return [made[0][f"{way}/{sample}"]["ids"] for sample in range(SAMPLED)]


def repeats(ids: list[int]) -> int:
    return len(ids) - len({*ids})


@pytest.mark.parametrize("way", ["top_k 1", "min_p 1"])
def test_a_single_token_to_choose_from_is_greedy(made: Made, way: str) -> None:
    greedy = ids_of(made, "greedy")
    assert greedy == [greedy[0]] * SAMPLED
    assert ids_of(made, way) == greedy
    assert ids_of(made, "sampled") != greedy


def test_logprobs_are_of_the_distribution_that_top_k_and_min_p_leave(made: Made) -> None:
    for sample in range(SAMPLED):
        for row in made[0][f"top_k 2/{sample}"]["top"]:
            assert sum(value > -1e9 for value in row) <= 2
        for row in made[0][f"min_p/{sample}"]["top"]:
            kept = [value for value in row if value > -1e9]
            # at temperature 2 the likelihoods that min_p compares are those after the temperature
            assert min(kept) >= max(kept) - 0.6932


@pytest.mark.parametrize("way", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_a_penalty_keeps_tokens_from_being_repeated(made: Made, way: str) -> None:
    (plain, *_), (penalised, *_) = ids_of(made, "unended"), ids_of(made, way)
    assert penalised != plain[: len(penalised)]
    assert repeats(penalised) < repeats(plain)


def test_seeds_and_penalties_make_the_same_tokens_again(made: Made) -> None:
    assert ids_of(made, "seeded penalties") == ids_of(made, "seeded penalties again")


def test_nothing_ends_a_completion_before_min_tokens(made: Made) -> None:
    assert len(ids_of(made, "greedy")[0]) < 40
    assert len(ids_of(made, "unended")[0]) == 80


def test_a_stop_token_ends_a_completion_and_is_its_last(made: Made) -> None:
    outputs, token, *_ = made
    stopped, greedy = outputs["stop_token_ids/0"], ids_of(made, "greedy")[0]
    assert stopped["ids"] == greedy[: greedy.index(token) + 1]
    assert stopped["ends"] == ["stop", str(token)]
    longer = outputs["min_tokens over stop_token_ids/0"]["ids"]
    assert len(longer) >= greedy.index(token) + 2
    assert token not in longer[:-1]


def test_bad_words_never_appear(made: Made) -> None:
    outputs, _, word, _ = made
    assert word in outputs["greedy/0"]["text"]
    assert word not in outputs["bad_words/0"]["text"]


def test_a_completion_that_repeats_itself_is_ended(made: Made) -> None:
    found = made[0]["repetition_detection/0"]
    assert found["ends"][0] == "repetition"
    assert 30 <= len(found["ids"]) < 80
    assert len({*found["ids"][-3:]}) == 1


def test_masks_and_experts_of_all_steps_reach_the_output(made: Made) -> None:
    experts = [[[4 * token + 2 * layer, 4 * token + 2 * layer + 1] for layer in range(2)] for token in range(5)]
    expected = [[23, 302, 19, 2], [2, 1, 2, 1], [23, 4, 302, 19, 2, 2], experts]
    assert made[3] == {"held back": expected, "with a stop string": expected}
