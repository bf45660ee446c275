"""Turns the journal of a finished shard into its Parquet file of rollouts."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.errors import StorageError
from tasks.files import publish_parquet
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.journal import Key, read_journal, unpack
from tasks.generation.policy import Policy
from tasks.generation.rollout_request import completion_limit
from tasks.generation.shard_feed import asked_questions
from tasks.generation.token_sets import Array
from tasks.plan.prompts import Message, build_messages, request_seed
from tasks.plan.sampling import set_fields
from tasks.records import LATER_ROLLOUT_COLUMNS, ROLLOUT_SCHEMA, SAMPLING_COLUMNS


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The engine's version and the dtype of its weights. Every rollout stores both."""

    version: str
    dtype: str


def publish_rollouts(work: ShardWork, spec: GenerationSpec, facts: EngineFacts) -> int:
    """Publish the shard's rollouts in the order of question, arm and sample, and return the number of error rows.

    Raises StorageError when the file cannot be written, or when the journal has lost a rollout.
    """
    finished = read_journal(work.journal, work.policy.run_id).finished
    prompts: list[list[Message]] = []
    truths: list[str] = []
    records: list[dict[str, Any]] = []
    for asked in asked_questions(work, spec):
        messages = {arm.id: build_messages(arm, asked.question) for arm in spec.arms}
        for arm, sample_index in asked.rollouts:
            key = (asked.example_id, arm.id, sample_index)
            if key not in finished:
                raise StorageError(
                    f"{work.journal} has lost the rollout {key}: the disk is failing. Run the same command, which "
                    "generates it again"
                )
            records.append(finished[key])
            prompts.append(messages[arm.id])
            truths.append(asked.ground_truth)
    frame = _frame(records, prompts, truths, work.policy, spec, facts)
    publish_parquet(frame, work.rollouts)
    return int(frame["error"].is_not_null().sum())


def _frame(
    records: list[dict[str, Any]],
    prompts: list[list[Message]],
    truths: list[str],
    policy: Policy,
    spec: GenerationSpec,
    facts: EngineFacts,
) -> pl.DataFrame:
    # polars takes longer to repeat a value than to read a list
    height = len(records)
    keys: list[Key] = [(record["example_id"], record["arm_id"], record["sample_index"]) for record in records]
    seeds = [request_seed(spec.sampling.seed, *key) for key in keys]
    groups = [f"{policy.run_id}/{example_id}/{arm_id}" for example_id, arm_id, _ in keys]
    prompt_ids = [unpack(record["prompt_ids"], "i4") for record in records]
    completion_ids = [unpack(record.get("completion_ids", ""), "i4") for record in records]
    top = [record.get("top") for record in records]
    finish_reasons = [record.get("finish_reason") for record in records]
    columns = {
        "rollout_id": [f"{group}/{key[2]}" for group, key in zip(groups, keys, strict=True)],
        "run_id": [policy.run_id] * height,
        "group_id": groups,
        "example_id": [key[0] for key in keys],
        "arm_id": [key[1] for key in keys],
        "sample_index": [key[2] for key in keys],
        "prompt": _chats(prompts),
        "completion": [record.get("completion") for record in records],
        "prompt_ids": _lists(prompt_ids, np.int32),
        "completion_ids": _lists(completion_ids, np.int32),
        "logprobs": _lists([unpack(record.get("logprobs", ""), "f4") for record in records], np.float32),
        "top_logprob_ids": _nested_lists([item and _rows(item[0], unpack(item[1], "i4")) for item in top], np.int32),
        "top_logprobs": _nested_lists([item and _rows(item[0], unpack(item[2], "f4")) for item in top], np.float32),
        "finish_reason": finish_reasons,
        "stop_reason": [record.get("stop_reason") for record in records],
        "is_truncated": [reason == "length" for reason in finish_reasons],
        "error": [record.get("error") for record in records],
        "num_prompt_tokens": [len(ids) for ids in prompt_ids],
        "num_completion_tokens": [len(ids) for ids in completion_ids],
        "ground_truth": truths,
        "temperature": [spec.sampling.temperature] * height,
        "top_p": [spec.sampling.top_p] * height,
        "max_tokens": [completion_limit(spec.sampling, seed) for seed in seeds],
        "seed": seeds,
        "model": [policy.model] * height,
        "model_revision": [policy.model_revision] * height,
        "engine_version": [facts.version] * height,
        "dtype": [facts.dtype] * height,
        "question_batch_size": [record["question_batch_size"] for record in records],
        "max_num_seqs": [record["max_num_seqs"] for record in records],
        "oom_rung": [record["oom_rung"] for record in records],
        "created_at": [datetime.datetime.fromisoformat(record["created_at"]) for record in records],
    }
    later = _sampling_columns(spec, height) | _stored_columns(spec, records)
    types = {name: kind for name, kind in LATER_ROLLOUT_COLUMNS.items() if name in later}
    schema = pl.Schema({**ROLLOUT_SCHEMA, **types})
    return pl.DataFrame({**columns, **{name: later[name] for name in types}}, schema=schema, strict=True)


def _sampling_columns(spec: GenerationSpec, height: int) -> dict[str, pl.Series]:
    """Return the columns of the sampling that the run sets."""
    given = set_fields(spec.sampling)
    return {
        name: pl.Series(name, [given[name]], dtype=kind).new_from_index(0, height)
        for name, kind in SAMPLING_COLUMNS.items()
        if name in given
    }


def _stored_columns(spec: GenerationSpec, records: list[dict[str, Any]]) -> dict[str, pl.Series]:
    """Return the columns of what the run stores beside the tokens."""
    columns = {}
    if spec.sampling.sampling_mask:
        packed = [record.get("sampling_mask") for record in records]
        masks = [item and (unpack(item[0], "i4"), unpack(item[1], "i4")) for item in packed]
        columns["sampling_mask"] = _nested_lists(masks, np.int32)
    if spec.sampling.routed_experts:
        columns["routed_experts"] = _routes([record.get("routed_experts") for record in records])
    return columns


def _chats(prompts: Sequence[list[Message]]) -> pl.Series:
    messages = pl.DataFrame(
        {key: [message[key] for prompt in prompts for message in prompt] for key in ("role", "content")},
        schema={"role": pl.String, "content": pl.String},
    )
    offsets = _offsets([len(prompt) for prompt in prompts])
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, messages.to_struct().to_arrow())))


def _lists(arrays: Sequence[Array], dtype: type[np.generic]) -> pl.Series:
    # a flat buffer with offsets: building nested lists value by value takes a second per shard
    offsets = _offsets([len(array) for array in arrays])
    values = _arrow(np.concatenate(arrays) if arrays else np.empty(0), dtype)
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, values)))


def _rows(width: int, values: Array) -> tuple[Array, Array]:
    """Return ``values`` in rows of ``width``, as ``_nested_lists`` takes them."""
    return np.full(len(values) // width, width), values


def _nested_lists(items: Sequence[tuple[Array, Array] | None], dtype: type[np.generic]) -> pl.Series:
    """Return a list of lists for each item: the lengths of the inner lists, and their values one after the other."""
    widths = [item[0] if item else np.empty(0, dtype=np.int64) for item in items]
    flat = np.concatenate([np.empty(0, dtype=dtype), *[item[1] for item in items if item]])
    inner = pa.LargeListArray.from_arrays(
        _offsets(np.concatenate([np.empty(0, dtype=np.int64), *widths])), _arrow(flat, dtype)
    )
    return _outer_lists([None if item is None else len(item[0]) for item in items], inner)


def _routes(items: Sequence[list[Any] | None]) -> pl.Series:
    """Return the tokens, layers and experts of each item: layers, experts per token, and the packed ids."""
    arrays = [None if item is None else unpack(item[2], "u2").reshape(-1, item[0], item[1]) for item in items]
    known = [array for array in arrays if array is not None]
    nothing = np.empty(0, dtype=np.int64)
    flat = np.concatenate([np.empty(0, dtype=np.uint16), *[array.ravel() for array in known]])
    widths = np.concatenate([nothing, *[np.full(array[:, :, 0].size, array.shape[2]) for array in known]])
    layers = np.concatenate([nothing, *[np.full(len(array), array.shape[1]) for array in known]])
    experts = pa.LargeListArray.from_arrays(_offsets(widths), _arrow(flat, np.uint16))
    lengths = [None if array is None else len(array) for array in arrays]
    return _outer_lists(lengths, pa.LargeListArray.from_arrays(_offsets(layers), experts))


def _outer_lists(lengths: Sequence[int | None], inner: pa.Array) -> pl.Series:
    """Return lists of ``lengths`` of the values of ``inner``; null where a length is None."""
    missing = np.packbits([length is None for length in lengths], bitorder="little")
    mask = pa.Array.from_buffers(pa.bool_(), len(lengths), [None, pa.py_buffer(missing)])
    offsets = _offsets([length or 0 for length in lengths])
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, inner, mask=mask)))


def _offsets(lengths: Sequence[int] | Array) -> pa.Array:
    return _arrow(np.concatenate([[0], np.cumsum(lengths)]), np.int64)


def _arrow(values: Array, dtype: type[np.generic]) -> pa.Array:
    # not pa.array, which imports pandas and so blocks the interpreter for a second
    values = np.ascontiguousarray(values, dtype=dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
