"""Resolve a configuration into a plan: the model files, the questions and the directory of a run.

Every wrong input is found here, before an engine starts and before anything is written.
"""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from profiles.arm_schema import ArmSet
from profiles.load import SettingsError, load_arms, load_profile, parse_settings
from profiles.schema import AUTO, Profile
from profiles.settings import MOST_SAMPLES
from tasks.errors import ConfigError
from tasks.plan.adapter_source import AdapterSource, LoraSlots
from tasks.plan.engine_options import changed_profile
from tasks.plan.fingerprint import comparable_settings, fingerprint, stopping_settings, tested_settings
from tasks.plan.gold_check import check_golds
from tasks.plan.model_sampling import told_sampling, with_model_sampling
from tasks.plan.model_source import ModelSource, find_model
from tasks.plan.prompts import arms_as_asked, check_prompts
from tasks.plan.questions import MoreColumns, find_duplicates, load_questions
from tasks.plan.run_config import RunConfig
from tasks.plan.sampling_check import check_sampling
from tasks.records import OWN_SCORES, RunPaths
from tasks.scoring.scorers import load_scorer
from tasks.storage.score_sets import own_scorer, set_folder

DEFAULT_SHARDS = 95
"""A shard has up to three task runs, so a run has at most about 300. Prefect's server is slow with thousands."""
MOST_SHARDS = 10_000
"""With a shard_size that the user gives."""
MIN_SHARD_SIZE = 16
AUTO_SHARD_ROLLOUTS = 256
"""Rollouts of a shard when the question batch is chosen: shards must not depend on the node that chooses it."""
_LONGEST_NAME = 255 - len("-0123456789")


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything that a run needs, resolved and checked.

    ``questions`` has one row per question, in QUESTION_SCHEMA.
    """

    config: RunConfig
    profile: Profile
    arms: ArmSet
    model: ModelSource
    questions: pl.DataFrame
    warnings: tuple[str, ...] = ()
    """What the user may not have meant about the questions; a sentence each."""
    choices: tuple[str, ...] = ()
    """What was chosen for this node under profile "auto", or taken from the model, and why; a sentence each."""
    model_sampling: dict[str, Any] = field(default_factory=dict)
    """What ``config`` has from the model's own generation_config.json, by name."""
    shard_size: int
    comparable: dict[str, Any]
    tested: dict[str, Any]
    fingerprint: str
    paths: RunPaths
    adapter: AdapterSource | None = None
    """The LoRA adapter beside the model; ``model`` then tells both."""
    lora: LoraSlots | None = None
    """The room for adapters in the engines, which a run without an adapter may share too."""

    @property
    def run_id(self) -> str:
        return self.paths.run_id

    @property
    def num_questions(self) -> int:
        return self.questions.height

    @property
    def rollouts_per_question(self) -> int:
        return len(self.arms.arms) * self.config.sampling.samples_per_arm

    @property
    def num_rollouts(self) -> int:
        """How many rollouts the run has; the least, where groups stop by a rule."""
        return self.num_questions * self.rollouts_per_question

    @property
    def most_rollouts(self) -> int:
        """How many rollouts the run has at most."""
        return self.num_questions * len(self.arms.arms) * self.config.sampling.most_samples

    @property
    def has_rule(self) -> bool:
        """Whether a group gets samples until a rule holds, in waves, and not a fixed number."""
        return self.config.sampling.sample_until is not None

    @property
    def num_shards(self) -> int:
        return -(-self.num_questions // self.shard_size)

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json: enough to reproduce the run and to compare it with another."""
        return {
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "comparable": self.comparable,
            "tested": self.tested,
            "config": self.config.model_dump(mode="json"),
            "profile": self.profile.model_dump(mode="json"),
            "arms": self.arms.model_dump(mode="json")["arms"],
            "model": {
                "name": self.model.name,
                "path": str(self.model.path),
                "revision": self.model.revision,
                **({} if self.adapter is None else {"adapter": self.adapter.to_json()}),
            },
            "num_questions": self.num_questions,
            # which groups stop when is not known before
            **({} if self.has_rule else {"num_rollouts": self.num_rollouts}),
            "num_shards": self.num_shards,
            "shard_size": self.shard_size,
            "duplicate_questions": asdict(find_duplicates(self.questions)),
            **({"model_sampling": self.model_sampling} if self.model_sampling else {}),
        }


def plan_run(config: RunConfig, runs_dir: Path, chosen: Profile | None = None) -> RunPlan:
    """Resolve ``config``: read profile, arms, model files and questions. Writes nothing in ``runs_dir``.

    ``chosen`` is the profile where the configuration's is "auto": see ``tasks.node.plan_here``. Raises ConfigError, or
    PreflightFailed when the disk has no room for a model of the hub.
    """
    try:
        profile = chosen or load_profile(config.profile)
        arms = arms_as_asked(load_arms(config.arms), config)
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    profile = _as_asked(profile, config)
    model_name = profile.model if config.model is None else config.model
    if model_name is None:
        raise ConfigError(f'profile {profile.name} names no model. Give --model: a directory, a hub id, or "demo"')
    model = find_model(model_name, load_format=profile.engine.load_format)
    check_prompts(arms, model.path)
    config, taken = with_model_sampling(config, model.path)
    check_sampling(config.sampling, profile, model.path)
    _check_context(config, profile)
    _check_group_sizes(config, arms)
    questions = load_questions(config.dataset, MoreColumns.of(load_scorer(config.scorer)))
    found = _resolved(config, profile, arms, model, questions, runs_dir)
    return replace(found, model_sampling=taken, choices=told_sampling(taken))


def with_profile(plan: RunPlan, profile: Profile) -> RunPlan:
    """Return ``plan`` with another profile. Raises ConfigError when the profile cannot do what is asked."""
    profile = _as_asked(profile, plan.config)
    _check_context(plan.config, profile)
    found = _resolved(plan.config, profile, plan.arms, plan.model, plan.questions, plan.paths.root.parent)
    return replace(found, model_sampling=plan.model_sampling, choices=plan.choices)


def with_model(plan: RunPlan, name: str) -> RunPlan:
    """Return ``plan`` with another model; everything else stays. Raises ConfigError when it is not complete."""
    config = plan.config.model_copy(update={"model": name})
    model = find_model(name, load_format=plan.profile.engine.load_format)
    other = _resolved(config, plan.profile, plan.arms, model, plan.questions, plan.paths.root.parent)
    return replace(other, model_sampling=plan.model_sampling, choices=plan.choices)


def _resolved(
    config: RunConfig, profile: Profile, arms: ArmSet, model: ModelSource, questions: pl.DataFrame, runs_dir: Path
) -> RunPlan:
    per_question = len(arms.arms) * config.sampling.samples_per_arm
    shard_size = config.shard_size or default_shard_size(questions.height, profile.question_batch_size, per_question)
    if (shards := -(-questions.height // shard_size)) > MOST_SHARDS:
        raise ConfigError(
            f"{questions.height:,} questions at a shard_size of {shard_size:,} make {shards:,} shards; at most "
            f"{MOST_SHARDS:,} are allowed, as each has up to three task runs. Raise shard_size, or leave it out"
        )
    comparable = comparable_settings(config, arms, model, questions) | stopping_settings(config)
    tested = tested_settings(profile, shard_size)
    digest = fingerprint(comparable, tested, config.sampling)
    name = config.name or name_of_run("-".join((profile.name, slug(model.name), slug(config.dataset.path))))
    root = runs_dir / f"{name}-{digest[:10]}"
    return RunPlan(
        config=config,
        profile=profile,
        arms=arms,
        model=model,
        questions=questions,
        warnings=check_golds(questions, config.scorer),
        shard_size=shard_size,
        comparable=comparable,
        tested=tested,
        fingerprint=digest,
        paths=RunPaths(root=root, scores_folder=folder_for(root, config.scorer)),
    )


def folder_for(root: Path, scorer: str) -> str:
    """Return where the scores of ``scorer`` belong: a finished run keeps its own, and others stand beside them."""
    own = own_scorer(root) if RunPaths(root=root).manifest.is_file() else None
    if own is None:
        return OWN_SCORES
    loaded = load_scorer(scorer)
    asked = (loaded.name, loaded.version)
    return OWN_SCORES if own == asked else set_folder(*asked)


def default_shard_size(
    num_questions: int, question_batch_size: int | Literal["auto"], rollouts_per_question: int
) -> int:
    """Return the questions per shard: at least a question batch, and enough for at most DEFAULT_SHARDS shards."""
    batch = AUTO_SHARD_ROLLOUTS // rollouts_per_question if question_batch_size == AUTO else question_batch_size
    return max(MIN_SHARD_SIZE, batch, -(-num_questions // DEFAULT_SHARDS))


def _as_asked(profile: Profile, config: RunConfig) -> Profile:
    profile = changed_profile(profile, config.engine)
    if config.question_batch_size is None:
        return profile
    values = profile.model_dump() | {"question_batch_size": config.question_batch_size}
    try:
        return parse_settings(values, Profile, f"profile {profile.name}")
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def _check_context(config: RunConfig, profile: Profile) -> None:
    if config.sampling.max_tokens >= profile.engine.max_model_len:
        raise ConfigError(
            f"max_tokens is {config.sampling.max_tokens}, but profile {profile.name} has max_model_len "
            f"{profile.engine.max_model_len}, which must also hold the prompt. Lower max_tokens or raise max_model_len"
        )


def _check_group_sizes(config: RunConfig, arms: ArmSet) -> None:
    samples = config.sampling.most_samples
    name = "samples_per_arm" if config.sampling.sample_until is None else "max_samples_per_arm"
    if (rollouts := len(arms.arms) * samples) > MOST_SAMPLES:
        raise ConfigError(
            f"{len(arms.arms)} arms x {samples:,} {name} = {rollouts:,} rollouts of each question, which "
            f"are in memory together; at most {MOST_SAMPLES:,} are allowed. Lower {name}"
        )


def name_of_run(name: str, end: str = "") -> str:
    """Return ``name``, with ``-end`` if there is one, cut to a length that a file system takes."""
    end = f"-{end[: _LONGEST_NAME // 2]}" if end else ""
    return name[: _LONGEST_NAME - len(end)] + end


def slug(name: str) -> str:
    """Return ``name``, the name of a file or directory, as a part of a run id."""
    stem = Path(name).stem if name.endswith((".jsonl", ".json", ".csv", ".parquet")) else Path(name).name
    return re.sub(r"[^A-Za-z0-9_.]+", "-", stem).strip("-.").lower() or "unnamed"
