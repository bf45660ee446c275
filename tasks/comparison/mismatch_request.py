"""What a mismatch is measured on, checked: a finished run, the trainer's weights, a seeded sample of rollouts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.comparison.comparability import COMPARABLE_KEYS, read_comparable_config
from tasks.comparison.sampling_support import SAMPLED_BY
from tasks.errors import ConfigError
from tasks.locks import what_finishes
from tasks.plan.fingerprint import STOPPING
from tasks.plan.model_source import ModelSource, find_model
from tasks.plan.sampling import STOPPING_FIELDS, run_sampling
from tasks.storage.published import read_shard
from tasks.storage.run_files import known_shards, missing_shards

_WITHOUT_EFFECT = {
    *(
        "max_tokens",
        "samples_per_arm",
        *STOPPING_FIELDS,
        "seed",
        "source",
        "lengths",
        "stop",
        "stop_token_ids",
        "repetition_detection",
    ),
    *("top_logprobs", "sampling_mask", "routed_experts"),
}
"""Settings that leave the distribution of a token as it is."""
_NO_TRAINER_HAS = ("quantization", "kv_cache_dtype", "speculative_config")
"""Engine settings that change logprobs by themselves."""


@dataclass(frozen=True, kw_only=True)
class RolloutSample:
    """The rollouts that were drawn."""

    rows: Mapping[Path, tuple[int, ...]]
    """Row numbers by shard file, ascending."""
    eligible: int
    error_rows: int
    empty_completions: int

    @property
    def rollouts(self) -> int:
        return sum(map(len, self.rows.values()))


@dataclass(frozen=True, kw_only=True)
class MismatchRequest:
    """What is recomputed, and with what."""

    run_id: str
    model: Path
    same_weights: bool
    trust_remote_code: bool
    device: str
    seed: int
    sample: RolloutSample
    sampling: Mapping[str, Any]
    """The run's settings; rollouts state some themselves, which then count."""
    template_kwargs: Mapping[str, Mapping[str, Any]]
    """What the chat template gets beside the messages, by arm id."""
    notes: tuple[str, ...]


def plan_mismatch(run_dir: Path, *, model: str | None, sample: int, seed: int, device: str) -> MismatchRequest:
    """Check the run at ``run_dir`` and draw ``sample`` of its rollouts. ``model`` names weights other than the run's.

    Reads no weights and writes nothing. Raises ConfigError.
    """
    if sample < 1:
        raise ConfigError(f"sample is {sample}; it must be at least 1 rollout")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0")
    config = read_comparable_config(run_dir)
    _check_finished(run_dir)
    engine = config.get("profile", {}).get("engine", {})
    if engine.get("load_format") == "dummy":
        raise ConfigError(
            f"{run_dir} was made with random weights (load_format dummy), which no file holds. Give another run"
        )
    source, same = _weights(run_dir, config, model)
    sampling = run_sampling(config)
    return MismatchRequest(
        run_id=run_dir.name,
        model=source.path,
        same_weights=same,
        trust_remote_code=bool(engine.get("trust_remote_code")),
        device=device,
        seed=seed,
        sample=draw_rollouts(run_dir, sample, seed),
        sampling=sampling,
        template_kwargs={arm["id"]: arm.get("chat_template_kwargs", {}) for arm in config.get("arms", ())},
        notes=(*_sampling_notes(sampling), *_engine_notes(engine), *_other_notes(config, source)),
    )


def draw_rollouts(run_dir: Path, most: int, seed: int) -> RolloutSample:
    """Return ``most`` rollouts of the run, or all if it has fewer, without error rows and empty completions.

    Raises ConfigError when none is left, or one that was drawn has no logprob for each of its tokens.
    """
    shards = list(known_shards(run_dir, "rollouts").values())
    slim = pl.concat(
        read_shard(path, ["error", "num_completion_tokens"])
        .with_row_index("row")
        .with_columns(shard=pl.lit(index, pl.Int32))
        for index, path in enumerate(shards)
    )
    failed = pl.col("error").is_not_null()
    usable = slim.filter(~failed & (pl.col("num_completion_tokens") > 0)).select("shard", "row")
    if usable.is_empty():
        raise ConfigError(f"{run_dir} has no rollout with tokens: {slim.height:,} are error rows or empty completions")
    drawn = np.sort(np.random.default_rng(seed).permutation(usable.height)[:most])
    rows: dict[Path, tuple[int, ...]] = {
        shards[index]: tuple(part["row"].to_list())
        for (index,), part in usable[drawn].partition_by("shard", as_dict=True, maintain_order=True).items()
    }
    for path, chosen in rows.items():
        _check_logprobs(path, chosen)
    errors = slim.filter(failed).height
    return RolloutSample(
        rows=rows,
        eligible=usable.height,
        error_rows=errors,
        empty_completions=slim.height - errors - usable.height,
    )


def _check_logprobs(path: Path, rows: tuple[int, ...]) -> None:
    prompt, tokens, logprobs = (
        pl.col(name).list.len().fill_null(0) for name in ("prompt_ids", "completion_ids", "logprobs")
    )
    without = (
        read_shard(path, ["rollout_id", "prompt_ids", "completion_ids", "logprobs"])[list(rows)]
        .filter((prompt == 0) | (tokens == 0) | (tokens != logprobs))
        .get_column("rollout_id")
    )
    if len(without):
        raise ConfigError(
            f"{path} has no prompt, or no logprob for each token, of {without[0]} ({len(without):,} of {len(rows):,} "
            "that were drawn): there is nothing to compare with. Generate the run again"
        )


def _check_finished(run_dir: Path) -> None:
    missing = missing_shards(run_dir)
    if missing or not known_shards(run_dir, "rollouts"):
        named = f": {missing[0]} is missing ({len(missing)} in all)" if missing else ""
        raise ConfigError(f"{run_dir} is not a finished run{named}. {what_finishes(run_dir)}")


def _weights(run_dir: Path, config: Mapping[str, Any], given: str | None) -> tuple[ModelSource, bool]:
    """Return the weights to recompute with, and whether they are the run's."""
    if given is None and (more := not_recomputed(config)):
        raise ConfigError(
            f"the outputs of {run_dir} depend on {', '.join(more)} as well, which is not recomputed. Give weights "
            "that have it merged in with --model PATH"
        )
    stated = config.get("model", {})
    path, name = stated.get("path"), str(stated.get("name"))
    chosen = given or (path if path and Path(path).is_dir() else name)
    try:
        source = find_model(chosen)
    except ConfigError as error:
        raise error if given else ConfigError(f"the run's model is not here: {error}, with --model PATH") from None
    same = source.weights_digest[:16] == config["comparable"]["model"]
    if not same and given is None:
        raise ConfigError(
            f"{source.path} holds other weights (digest {source.weights_digest[:16]}) than those that {run_dir} "
            f"sampled from ({config['comparable']['model']}). Name the weights to recompute with: --model PATH"
        )
    return source, same


def not_recomputed(config: Mapping[str, Any]) -> list[str]:
    """Return what the outputs depend on beside the model: an adapter, or what a later version knows."""
    later = sorted(set(config["comparable"]) - {*COMPARABLE_KEYS, STOPPING})
    return [*(["an adapter"] if config.get("model", {}).get("adapter") else []), *later]


def _sampling_notes(sampling: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note about each setting that changes the distribution and is not recomputed."""
    return tuple(
        f"The run samples with {name} {value}, which is not recomputed: it is a part of the gap."
        for name, value in sampling.items()
        if name not in (*SAMPLED_BY, *_WITHOUT_EFFECT) and value and (name, value) != ("repetition_penalty", 1)
    )


def _engine_notes(engine: Mapping[str, Any]) -> tuple[str, ...]:
    settings = {**engine, **(engine.get("vllm") or {})}
    return tuple(
        f"The engine ran with {name} {settings[name]}, and the recomputation does not: it is a part of the gap."
        for name in _NO_TRAINER_HAS
        if settings.get(name) not in (None, "auto")
    )


def _other_notes(config: Mapping[str, Any], source: ModelSource) -> tuple[str, ...]:
    comparable = config["comparable"]
    pairs = {
        "tokenizer": (source.tokenizer_digest, comparable["tokenizer"]),
        "chat template": (source.chat_template_digest, comparable["chat_template"]),
    }
    return (
        *(f"{source.path} has another {what} than the run." for what, (here, then) in pairs.items() if here != then),
        *(
            f"The outputs depend on {name} as well, which counts only if {source.path} has it merged in."
            for name in not_recomputed(config)
        ),
    )
