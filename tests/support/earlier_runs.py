"""Runs that were made before one that is planned, without an engine."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.files import publish_json, read_json
from tasks.generation.generation_log import GenerationSession, add_session
from tasks.node.prompt_lengths import PromptLengths
from tasks.node.prompt_sample import PromptSample
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.records import RunPaths
from tasks.results.summary import summarize_run
from tasks.storage.run_files import write_manifest
from tests.support.synthetic import write_run

PROMPTS = PromptSample(lengths=PromptLengths(sampled=4, mean=50.5, p99=60, longest=60, shared_prefix=20.0))
HERE = "NVIDIA H200"


def planned(runs_dir: Path, **parameters: Any) -> RunPlan:
    """A run of 8 arms x 4 questions in 2 shards, whose prompts are on record."""
    asked = {"profile": "cpu-demo", "questions": 4, "shard_size": 2, "max_tokens": 100, **parameters}
    plan = plan_run(config_from_parameters(asked), runs_dir)
    publish_json(asdict(PROMPTS), plan.paths.prompts)
    return plan


def session(**values: Any) -> GenerationSession:
    usual: dict[str, Any] = {"started_at": "", "seconds": 10.0, "start_seconds": 4.0, "tokens": 2000, "rollouts": 100}
    return GenerationSession(**{**usual, "restarts": 0, "replicas": 1, "gpus": 1, "device": HERE, **values})


def write_earlier(
    plan: RunPlan,
    name: str,
    *sessions: GenerationSession,
    comparable: Mapping[str, Any] | None = None,
    tested: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    model_path: str = "",
    changed: int = 0,
) -> RunPaths:
    """A run as ``plan`` is one, but for what is given; it changed last at ``changed`` seconds of the epoch."""
    paths = write_run(
        plan.paths.root.parent / name,
        shards=1,
        questions_per_shard=2,
        tokens=30,
        comparable={**plan.comparable, **(comparable or {})},
    )
    asked = plan.config.model_dump(mode="json") | dict(config or {})
    own = {"tested": {**plan.tested, **(tested or {})}, "config": asked, "model": {"name": "m", "path": model_path}}
    publish_json(read_json(paths.config) | own, paths.config)
    for each in sessions or (session(),):
        add_session(paths.state / "generation.json", each)
    os.utime(paths.root, (changed, changed))
    return paths


def finish(paths: RunPaths) -> RunPaths:
    summarize_run(paths.root)
    write_manifest(paths.root)
    return paths
