"""What a run stores beside its tokens goes from an engine's steps to the rollouts' file."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from tasks.generation.engine import EngineOutput, EngineSpec
from tasks.generation.journal import JournalWriter
from tasks.generation.partial_completion import PartialCompletion
from tasks.generation.rollout_frame import EngineFacts, publish_rollouts
from tasks.generation.rollout_writer import FinishedRollout, RolloutWriter
from tasks.generation.token_sets import token_sets
from tasks.generation.vllm_requests import engine_arguments
from tasks.plan.sampling import Sampling
from tasks.records import LATER_ROLLOUT_COLUMNS, ROLLOUT_SCHEMA, are_rollouts
from tests.support.replica_parts import ENGINE_SPEC, ByteTokenizer, make_shard, make_spec

FACTS = EngineFacts(version="fake 1", dtype="float32")
SET = {
    "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    "min_tokens": 2, "stop_token_ids": (7, 9), "bad_words": ("no", "never"),
}  # fmt: skip


class Mask(NamedTuple):
    """The arrays of vLLM's SamplingMaskLists."""

    token_ids: Any
    offsets: Any = None


def partial(steps: list[tuple[list[int], Mask | None, Any]]) -> PartialCompletion:
    made = PartialCompletion(request_id="r", top_logprobs=0)
    for ids, mask, experts in steps:
        made.append(ids, None)
        made.append_stored(mask, experts)
    return made


def test_a_mask_is_collected_step_by_step_and_owns_its_memory() -> None:
    shared = np.array([5, 3, 8, 1], dtype=np.int32)
    two = Mask(shared[1:], np.array([0, 1, 3]))
    made = partial(
        [([5], Mask(shared[:1]), None), ([3, 1], two, None), ([2], Mask(np.array([], dtype=np.int32)), None)]
    )
    shared[:] = 0
    assert made.sampling_mask is not None
    assert made.sampling_mask.counts.tolist() == [1, 1, 2, 0]
    assert made.sampling_mask.ids.tolist() == [5, 3, 8, 1]
    assert made.routed_experts is None


def test_the_experts_of_prompt_and_completion_follow_each_other() -> None:
    prompt, token = np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.full((1, 2, 2), 200, dtype=np.uint8)
    made = partial([([1], None, prompt), ([2], None, token), ([3], None, None)])
    assert made.routed_experts is not None
    assert made.routed_experts.tolist() == [*prompt.tolist(), *token.tolist()]
    assert made.sampling_mask is None


def published(tmp_path: Path, sampling: Sampling, outputs: list[dict[str, Any] | None]) -> pl.DataFrame:
    """Publish a question's rollouts with these ``outputs``; None is an error row."""
    spec = replace(make_spec(), sampling=sampling)
    work = make_shard(tmp_path, 0, ["one"])
    with JournalWriter(work.journal) as journal:
        rollouts = [
            FinishedRollout(
                example_id="s0-q0",
                arm_id=arm.id,
                sample_index=0,
                prompt_ids=[1, 2],
                error=None if output is not None else "refused",
                output=None
                if output is None
                else EngineOutput(
                    **{"request_id": "r", "completion_ids": [65, 66], "logprobs": [-0.5, -1.0], "finish_reason": "stop"}
                    | output
                ),
            )
            for arm, output in zip(spec.arms, outputs, strict=True)
        ]
        RolloutWriter(journal, spec, ByteTokenizer()).write(rollouts)
    publish_rollouts(work, spec, FACTS)
    return pl.read_parquet(work.rollouts)


def test_a_run_at_the_defaults_has_the_columns_that_it_always_had(tmp_path: Path) -> None:
    frame = published(tmp_path, Sampling(max_tokens=16), [{}, None, {}])
    assert frame.schema == ROLLOUT_SCHEMA
    assert are_rollouts(frame.schema)


def test_every_later_column_has_what_the_run_set_or_stored(tmp_path: Path) -> None:
    sampling = Sampling(max_tokens=16, sampling_mask=True, routed_experts=True, **SET)
    experts = np.arange(12, dtype=np.uint16).reshape(3, 2, 2) + 300
    stored = {"sampling_mask": token_sets([[65, 70, 3], [66]]), "routed_experts": experts}
    # an engine may tell less than it was asked for, as for a completion that it gave up
    frame = published(tmp_path, sampling, [stored, None, {"sampling_mask": token_sets([[65], []])}])
    assert frame.schema == {**ROLLOUT_SCHEMA, **LATER_ROLLOUT_COLUMNS}
    assert are_rollouts(frame.schema)
    assert frame["sampling_mask"].to_list() == [[[65, 70, 3], [66]], None, [[65], []]]
    assert frame["routed_experts"].to_list() == [experts.tolist(), None, None]
    as_lists = {name: list(value) if isinstance(value, tuple) else value for name, value in SET.items()}
    assert frame.select(*SET).unique().to_dicts() == [as_lists]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        pytest.param({**ROLLOUT_SCHEMA, "top_k": pl.Int32}, True, id="one later column"),
        pytest.param({**ROLLOUT_SCHEMA, "top_k": pl.Int64}, False, id="of another type"),
        pytest.param({**ROLLOUT_SCHEMA, "min_p": pl.Float64, "top_k": pl.Int32}, False, id="in another order"),
        pytest.param({**ROLLOUT_SCHEMA, "else": pl.Int32}, False, id="an unknown column"),
        pytest.param({"seed": pl.Int64}, False, id="others are missing"),
    ],
)
def test_the_columns_of_rollouts_are_known(schema: dict[str, Any], expected: bool) -> None:
    assert are_rollouts(pl.Schema(schema)) is expected


@pytest.mark.parametrize("name", ["sampling_mask", "routed_experts"])
def test_the_engine_is_asked_only_for_what_is_stored(name: str) -> None:
    argument = {"sampling_mask": "return_sampling_mask", "routed_experts": "enable_return_routed_experts"}[name]
    asked = EngineSpec(model_path=Path("m"), settings=ENGINE_SPEC.settings, **{name: True})  # type: ignore[arg-type]
    assert engine_arguments(asked)[argument] is True
    assert argument not in engine_arguments(ENGINE_SPEC)
