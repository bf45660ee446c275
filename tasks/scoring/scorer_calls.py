"""What a scorer of the user is called with: the columns of a row, by name, in the form that the function has.

| form | known by its parameter | called with |
| --- | --- | --- |
| row | ``completion`` | one row, by name |
| positional | three parameters of other names | completion, ground truth, finish reason |
| batch | ``completions``, and another plural such as ``ground_truths`` | lists, by plural names |
| trl | ``completions`` | as TRL's GRPOTrainer does: lists by names of columns; messages where prompts are chats |
| verl | ``solution_str`` | as verl's naive reward manager does |
| verl_batch | ``solution_strs`` | as verl's batch reward manager does |

Sources: TRL 1.x ``GRPOTrainer._calculate_rewards``; verl ``workers/reward_manager/naive.py`` and ``batch.py``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.records import ROLLOUT_SCHEMA
from tasks.scoring.scorer_process import CONTRACT, Described

BASE = ("completion", "ground_truth", "finish_reason")
ROW = "row"
"""A column with the other columns of the dataset's row, as JSON."""
BATCH_ROWS = 32
_PLAIN_ROLE = "text"
_OURS = {name for name in ROLLOUT_SCHEMA if name != "created_at"} | {"question"}
_OF_TRL = {"prompts", "completions", "completion_ids", "completions_ids", "trainer_state", "log_extra", "log_metric"}


def is_batch(described: Described) -> bool:
    """Return whether one call is for several rows."""
    return described.form in ("batch", "trl", "verl_batch")


def rollout_columns(described: Described) -> list[str]:
    """Return the columns of the rollouts that the function is called with."""
    wanted = [column for name in described.names if (column := _column(described, name)) in ROLLOUT_SCHEMA]
    if described.form == "trl":
        wanted += ["prompt", "completion_ids"]
    if described.form.startswith("verl") or described.takes_all:
        wanted += ["example_id", "arm_id", "prompt"]
    return [name for name in dict.fromkeys([*BASE, *wanted]) if name != "created_at"]


def dataset_columns(described: Described) -> tuple[list[str], list[str] | None]:
    """Return the columns that the dataset must have, and those that it may have; None for all."""
    if described.form.startswith("verl"):
        return [], ["extra_info", "data_source"]
    if described.form == "positional":
        return [], []
    ours = _OURS | (_OF_TRL if described.form == "trl" else set())
    unknown = [name for name in described.names if _column(described, name) not in ours]
    needed = [name for name in unknown if name in described.required]
    return needed, None if described.takes_all else unknown


def check_row(row: Mapping[str, Any], needed: Sequence[str], given: str, dataset: str) -> None:
    """Raise ConfigError when the first ``row`` of ``dataset`` lacks a column that the scorer ``given`` needs."""
    if lacking := [name for name in needed if name not in row]:
        raise ConfigError(
            f"scorer {given!r} has the parameter {lacking[0]!r}, which is no name of ours and no column of "
            f"dataset {dataset}; it has {', '.join(map(repr, row))}. {CONTRACT}"
        )


def row_arguments(described: Described, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return what each row contributes, by the names of the form: values of a row form, items of a batch form."""
    columns = [name for name in (*_OURS, ROW) if name in rows.columns]
    return [_arguments(described, row) for row in rows.select(columns).iter_rows(named=True)]


def batch_arguments(described: Described, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the arguments of one call for several ``rows``, of ``row_arguments``."""
    arguments: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
    }
    if described.form == "trl" and ("trainer_state" in described.names or described.takes_all):
        arguments["trainer_state"] = None
    return arguments


def _arguments(described: Described, row: dict[str, Any]) -> dict[str, Any]:
    dataset: dict[str, Any] = json.loads(row.pop(ROW, None) or "{}")
    known = {**dataset, **row, "arm": row.get("arm_id")}
    match described.form:
        case "positional":
            return {name: row[name] for name in BASE}
        case "trl":
            return _chosen(described, {**known, **_of_trl(row)})
        case "verl" | "verl_batch":
            return _chosen(described, _of_verl(row, dataset, "s" if described.form == "verl_batch" else ""))
        case "batch":
            return _chosen(described, {**known, **{f"{name}s": value for name, value in known.items()}})
    return _chosen(described, known)


def _chosen(described: Described, values: dict[str, Any]) -> dict[str, Any]:
    if described.takes_all:
        return values
    # a column that this row of the dataset lacks is None where it has to be given
    return {name: values.get(name) for name in described.names if name in values or name in described.required}


def _of_trl(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = row.get("prompt") or [], row["completion"]
    is_chat = bool(prompt) and prompt[0]["role"] != _PLAIN_ROLE
    return {
        "prompts": prompt if is_chat else "".join(message["content"] for message in prompt),
        "completions": [{"role": "assistant", "content": completion}] if is_chat else completion,
        "completion_ids": row.get("completion_ids"),
        "completions_ids": row.get("completion_ids"),
    }


def _of_verl(row: Mapping[str, Any], dataset: Mapping[str, Any], plural: str) -> dict[str, Any]:
    of_dataset = dataset.get("extra_info")
    ours = {name: row[name] for name in ("question", "example_id", "arm_id", "prompt", "finish_reason") if name in row}
    return {
        f"data_source{plural}": dataset.get("data_source", "rollout-harvest"),
        f"solution_str{plural}": row["completion"],
        f"ground_truth{plural}": row["ground_truth"],
        f"extra_info{plural}": {**ours, **(of_dataset if isinstance(of_dataset, dict) else {})},
    }


def _column(described: Described, name: str) -> str:
    if described.form == "batch" and name.endswith("s") and (name[:-1] in _OURS or name[:-1] == "arm"):
        name = name[:-1]
    return "arm_id" if name == "arm" else name
