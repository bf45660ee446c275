"""A run as a dataset of the Hugging Face Hub: one row per rollout, with its score."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.errors import ConfigError, HarvestError, UploadError
from tasks.manifest import missing_shards, run_fingerprint
from tasks.records import ROLLOUT_KEY, RunPaths, shard_indices
from tasks.remote_errors import redact
from tasks.store import publish_parquet, read_json

if TYPE_CHECKING:
    from datasets import Dataset

_CARD = """---
license: other
tags:
- rollouts
- reinforcement-learning
- vllm
---

# {run_id}

{rollouts} rollouts of {questions} questions under {arms} system prompts (*arms*), each with token ids,
log-probabilities and a reward.

| | |
| --- | --- |
| model | {model} |
| engine | vLLM {engine} |
| precision | {dtype} |
| sampling | temperature {temperature}, top_p {top_p}, at most {max_tokens} tokens |
| scorer | {scorer} |
| error rows | {errors} |
| mean reward | {reward} |
| equivalence to the baseline | {verdict} |
| fingerprint | `{fingerprint}` |

A group, as group-relative methods such as GRPO normalise over it, is the rows with the same `group_id`. `logprobs` are
natural logarithms under the sampling distribution, one for each of `completion_ids`.
"""


def push_to_hub(run_dir: Path, repo_id: str, *, private: bool = True) -> str:
    """Push the run's scored rollouts and a dataset card to ``ORG/NAME``; returns the dataset's URL.

    The token comes from the environment or the Hub's login. Raises ConfigError for a repo_id that is no ORG/NAME or
    a run that is not finished, UploadError when the Hub refuses.
    """
    from huggingface_hub import DatasetCard, HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no dataset repository: {error}. Write ORG/NAME") from None
    with tempfile.TemporaryDirectory(prefix="harvest-push-") as cache:
        dataset = build_dataset(run_dir, Path(cache))
        card = DatasetCard(build_card(run_dir))
        try:
            HfApi().create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            # the card first: push_to_hub keeps its text and adds the features to its header
            card.push_to_hub(repo_id, repo_type="dataset")
            dataset.push_to_hub(repo_id, private=private)
        except HarvestError:
            raise
        except Exception as error:
            raise UploadError(redact(f"the Hub did not take {repo_id}: {type(error).__name__}: {error}")) from None
    return f"https://huggingface.co/datasets/{repo_id}"


def build_dataset(run_dir: Path, cache: Path) -> "Dataset":
    """The run as a dataset: rollouts joined with their scores, shard by shard, held on disk in ``cache``."""
    from datasets import Dataset

    files = []
    for index, frame in _scored_shards(run_dir):
        path = cache / "shards" / f"{index:05d}.parquet"
        publish_parquet(frame, path)
        files.append(str(path))
    dataset: Dataset = Dataset.from_parquet(files, cache_dir=str(cache / "arrow"))
    return dataset


def build_card(run_dir: Path) -> str:
    """The text of the dataset card, with YAML header."""
    paths = RunPaths(root=run_dir)
    comparison = read_json(paths.equivalence)
    rollouts = pl.scan_parquet(run_dir / "rollouts" / "shard-*.parquet")
    facts: dict[str, Any] = (
        rollouts.select(
            pl.len().alias("rollouts"),
            pl.col(ROLLOUT_KEY[0]).n_unique().alias("questions"),
            pl.col(ROLLOUT_KEY[1]).n_unique().alias("arms"),
            pl.col("error").is_not_null().sum().alias("errors"),
            engine=pl.col("engine_version").first(),
            **{name: pl.col(name).first() for name in ("model", "dtype", "temperature", "top_p", "max_tokens")},
        )
        .collect()
        .row(0, named=True)
    )
    scores = _scores(run_dir)
    return _CARD.format(
        run_id=run_dir.resolve().name,
        fingerprint=run_fingerprint(run_dir),
        verdict=(comparison or {}).get("verdict") or "not compared",
        scorer="none"
        if scores is None
        else " ".join(scores.select("scorer", "scorer_version").first().collect().row(0)),
        reward="none" if scores is None else f"{scores.select(pl.col('reward').mean()).collect().item():.4f}",
        **facts,
    )


def _scored_shards(run_dir: Path) -> Iterator[tuple[int, pl.DataFrame]]:
    paths = RunPaths(root=run_dir)
    indices = shard_indices(run_dir / "rollouts")
    if not indices or missing_shards(run_dir):
        raise ConfigError(f"{run_dir} is not a finished run. Run the command that made it again; it resumes")
    scored = _scores(run_dir) is not None
    for index in indices:
        frame = pl.read_parquet(paths.rollouts(index))
        if scored:
            frame = frame.join(pl.read_parquet(paths.scores(index)), on="rollout_id", how="left")
        yield index, frame


def _scores(run_dir: Path) -> pl.LazyFrame | None:
    if not shard_indices(run_dir / "scores"):
        return None
    return pl.scan_parquet(run_dir / "scores" / "shard-*.parquet")
