"""Puts a run on shared storage, so that nodes can generate its shards, and fetches finished shards.

``SHARED/RUN_ID/`` holds the resolved configuration, the questions, the ledger and the finished shards. A node resolves
model and versions for itself and compares the fingerprint, so that no node answers with other weights.
"""

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from profiles.arm_schema import ArmSet
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.files import atomic_path, publish_parquet
from tasks.fleet.ledger import RUN, Ledger, finished_key, read_object, rollouts_key
from tasks.plan.fingerprint import comparable_settings, fingerprint, tested_settings
from tasks.plan.model_source import find_model
from tasks.plan.policies import AUTO_BASELINE
from tasks.plan.run_config import build_config
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.records import QUESTION_SCHEMA, ROLLOUT_KEY, ROLLOUT_SCHEMA, SHARD_NAME, RunPaths, are_rollouts
from tasks.storage.destination import check_destination, open_store
from tasks.storage.filesystems import TransferSettings
from tasks.storage.object_store import ObjectStore
from tasks.storage.published import record_published
from tasks.user_paths import is_url, user_path

_TRIES = 3
PAUSE_SECONDS = 2.0


def check_nodes(
    nodes: int, shared: str | None, baseline: str | None, check: Callable[[str], None] = check_destination
) -> None:
    """Raise ConfigError or UploadError when a run cannot be spread over ``nodes`` nodes that share ``shared``."""
    if nodes > 1 and baseline == AUTO_BASELINE:
        raise ConfigError(
            f"baseline is auto, which is generated where the collection runs, and nodes is {nodes}. Collect the "
            "baseline first, and give its run id"
        )
    if nodes > 1 or shared is not None:
        _check_shared(shared, check)


def _check_shared(shared: str | None, check: Callable[[str], None]) -> None:
    if not shared:
        raise ConfigError(
            "several nodes need a place that all of them reach, and none is given. Set shared to a directory of a "
            "shared file system or to s3://BUCKET/PREFIX"
        )
    if not is_url(shared) and not user_path(shared).is_absolute():
        raise ConfigError(
            f"shared is {shared!r}, which every node would look for in a directory of its own. Give an absolute path "
            "on a shared file system, or s3://BUCKET/PREFIX"
        )
    check(shared)


def open_shared(
    shared: str, run_id: str, state: Path | None = None, transfer: TransferSettings | None = None
) -> ObjectStore:
    """Return the store of one run below ``shared``. Unfinished uploads are recorded in ``state``."""
    return open_store(f"{shared.rstrip('/')}/{run_id}", transfer, state)


@dataclass(frozen=True, kw_only=True)
class SharedOrder:
    """The order for the nodes: the planned run, and the wanted shards.

    The plan has only the questions of the wanted shards, one shard after the other.
    """

    plan: RunPlan
    shards: tuple[Shard, ...]
    nodes: int


def publish_order(store: ObjectStore, plan: RunPlan, shards: Sequence[Shard], nodes: int) -> None:
    """Store the order for the nodes. The questions are stored first, so that a node that sees the order has them.

    Raises ConfigError when ``store`` holds another run.
    """
    known = read_object(store, RUN)
    if known and known["plan"]["fingerprint"] != plan.fingerprint:
        raise ConfigError(f"{store.url} holds another run of this name. Give another name or another shared location")
    for shard in shards:
        data = plan.paths.questions(shard.index).read_bytes()
        store.put_bytes(_questions_key(shard.index), data, plan.fingerprint)
    order = {"plan": plan.to_json(), "wanted": [shard.index for shard in shards], "nodes": nodes}
    store.put_bytes(RUN, json.dumps(order, ensure_ascii=False).encode(), plan.fingerprint)


def receive_order(store: ObjectStore, run_id: str, scratch: Path) -> SharedOrder:
    """Read the order at ``store``, and plan the run on this node below ``scratch``.

    Raises ConfigError when there is no order, or when this node would generate other rollouts, because its model,
    tokenizer or engine version differs.
    """
    order = read_object(store, RUN)
    if not order:
        raise ConfigError(f"{store.url} holds no run. Start the collection with nodes; it starts its nodes by itself")
    planned = order["plan"]
    config = build_config(planned["config"])
    profile = Profile.model_validate(planned["profile"])
    arms = ArmSet.model_validate({"arms": planned["arms"]})
    model = find_model(planned["model"]["name"], load_format=profile.engine.load_format)
    # the order lacks the questions of finished shards, so the digest of all questions comes from the plan
    questions = [_questions(store, index) for index in order["wanted"]]
    asked = pl.concat(questions) if questions else pl.DataFrame(schema=QUESTION_SCHEMA)
    comparable = comparable_settings(config, arms, model, asked) | {"dataset": planned["comparable"]["dataset"]}
    tested = tested_settings(profile, planned["shard_size"])
    _refuse_difference(planned, comparable, tested)
    digest = fingerprint(comparable, tested, config.sampling)
    plan = RunPlan(
        config=config,
        profile=profile,
        arms=arms,
        model=model,
        questions=asked,
        shard_size=planned["shard_size"],
        comparable=comparable,
        tested=tested,
        fingerprint=digest,
        paths=RunPaths(root=scratch / run_id),
    )
    shards = []
    for index, frame in zip(order["wanted"], questions, strict=True):
        rollouts = frame.height * plan.rollouts_per_question
        shards.append(Shard(index=index, num_questions=frame.height, num_rollouts=rollouts))
    return SharedOrder(plan=plan, shards=tuple(shards), nodes=order["nodes"])


def unpack_questions(order: SharedOrder) -> None:
    """Write the wanted shards' questions to the files that this node's replicas read."""
    start = 0
    for shard in order.shards:
        questions = order.plan.questions.slice(start, shard.num_questions)
        publish_parquet(questions, order.plan.paths.questions(shard.index))
        record_published(order.plan.paths.questions(shard.index))
        start += shard.num_questions


def fetch_shard(ledger: Ledger, plan: RunPlan, shard: Shard, *, pause_s: float = PAUSE_SECONDS) -> str | None:
    """Copy a finished shard into the run's directory, and return the name of the node that generated it.

    Return None when the stored shard is damaged. Its mark in the ledger is then removed. Another node may be storing it
    just now, so it is read several times, each time after ``pause_s`` seconds more.
    """
    for attempt in range(_TRIES):
        time.sleep(attempt * pause_s)
        mark = read_object(ledger.store, finished_key(shard.index))
        if mark and _fetch(ledger.store, mark, plan, shard):
            record_published(plan.paths.rollouts(shard.index))
            plan.paths.journal(shard.index).unlink(missing_ok=True)
            return str(mark["node"])
    ledger.reopen(shard.index)
    return None


def check_rollouts(path: Path, plan: RunPlan, shard: Shard) -> str | None:
    """Return what is wrong with the columns, number or keys of a shard's rollouts; None when they are right."""
    try:
        lazy = pl.scan_parquet(path, glob=False)
        if not are_rollouts(lazy.collect_schema()):
            return "its columns are not those of rollouts"
        found = lazy.select("run_id", *ROLLOUT_KEY).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        return f"it cannot be read: {error}"
    if found.height != shard.num_rollouts:
        return f"it has {found.height} rows instead of {shard.num_rollouts}"
    if not found.equals(_expected_keys(plan, shard)):
        return "its rollouts are not those of this shard"
    return None


def _fetch(store: ObjectStore, mark: dict[str, Any], plan: RunPlan, shard: Shard) -> bool:
    stored = store.head(rollouts_key(shard.index))
    # when two nodes finished it at the same time, the mark of the later one may still be on its way
    if stored is None or stored.size != mark["bytes"]:
        return False
    digest = hashlib.sha256()
    with contextlib.suppress(_NotTheShardError), atomic_path(plan.paths.rollouts(shard.index)) as temporary:
        with temporary.open("wb") as copy:
            for data in store.read_chunks(rollouts_key(shard.index), stored.size):
                digest.update(data)
                copy.write(data)
        if digest.hexdigest() != mark["sha256"] or check_rollouts(temporary, plan, shard) is not None:
            raise _NotTheShardError
        return True
    return False


class _NotTheShardError(Exception):
    """The stored object differs from its mark."""


def _expected_keys(plan: RunPlan, shard: Shard) -> pl.DataFrame:
    questions = plan.questions.slice(shard.index * plan.shard_size, shard.num_questions)
    rows = [
        (plan.run_id, example_id, arm.id, sample)
        for example_id in questions["example_id"]
        for arm in plan.arms.arms
        for sample in range(plan.config.sampling.samples_per_arm)
    ]
    schema = pl.Schema({name: ROLLOUT_SCHEMA[name] for name in ("run_id", *ROLLOUT_KEY)})
    return pl.DataFrame(rows, schema=schema, orient="row")


def _refuse_difference(planned: dict[str, Any], comparable: dict[str, Any], tested: dict[str, Any]) -> None:
    # through JSON, as the order came through it too
    here = json.loads(json.dumps(comparable | tested))
    there = planned["comparable"] | planned["tested"]
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differing:
        told = "; ".join(f"{name} is {here.get(name)} here and {there.get(name)} there" for name in differing)
        raise ConfigError(
            f"this node would generate other rollouts than the run was planned for: {told}. Give every node the same "
            "model files and the same versions"
        )


def _questions(store: ObjectStore, index: int) -> pl.DataFrame:
    data = store.read(_questions_key(index))
    if data is None:
        raise ConfigError(f"{_questions_key(index)} is missing from {store.url}. Start the collection again")
    return pl.read_parquet(io.BytesIO(data))


def _questions_key(index: int) -> str:
    return f"questions/{SHARD_NAME.format(index)}"
