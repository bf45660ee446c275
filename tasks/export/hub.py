"""Pushes a run to the Hugging Face Hub, as a dataset with one row per rollout and its score."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tasks.errors import ConfigError, HarvestError, UploadError
from tasks.files import publish_parquet
from tasks.locks import what_finishes
from tasks.records import RunPaths
from tasks.results.run_card import build_hub_card, scan_scores
from tasks.storage.published import read_shard
from tasks.storage.run_files import known_shards, missing_shards
from tasks.storage.transfer_errors import redact

if TYPE_CHECKING:
    from datasets import Dataset


def push_to_hub(run_dir: Path, repo_id: str, *, private: bool = True) -> str:
    """Push the run's rollouts with their scores, and a card, to the dataset ``repo_id`` (ORG/NAME). Return its URL.

    The token comes from the environment or from the Hub's login. Raises ConfigError when ``repo_id`` is not ORG/NAME or
    the run is not finished, UploadError when the Hub refuses.
    """
    from huggingface_hub import DatasetCard, HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is not a dataset repository: {error}. Write ORG/NAME") from None
    with tempfile.TemporaryDirectory(prefix="harvest-push-") as cache:
        dataset = build_dataset(run_dir, Path(cache))
        card = DatasetCard(build_hub_card(run_dir))
        try:
            HfApi().create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            # the card goes first, because push_to_hub keeps its text and adds the features to its header
            card.push_to_hub(repo_id, repo_type="dataset")
            dataset.push_to_hub(repo_id, private=private)
        except HarvestError:
            raise
        except Exception as error:
            raise UploadError(redact(f"the Hub did not take {repo_id}: {type(error).__name__}: {error}")) from None
    return f"https://huggingface.co/datasets/{repo_id}"


def build_dataset(run_dir: Path, cache: Path) -> "Dataset":
    """Return the rollouts, with their scores if there are any. The data stays on disk, in ``cache``."""
    from datasets import Dataset

    files = []
    for index, frame in _scored_shards(run_dir):
        path = cache / "shards" / f"{index:05d}.parquet"
        publish_parquet(frame, path)
        files.append(str(path))
    dataset: Dataset = Dataset.from_parquet(files, cache_dir=str(cache / "arrow"))
    return dataset


def _scored_shards(run_dir: Path) -> Iterator[tuple[int, pl.DataFrame]]:
    paths = RunPaths(root=run_dir)
    indices = known_shards(run_dir, "rollouts")
    if not indices or missing_shards(run_dir):
        raise ConfigError(f"{run_dir} is not a finished run. {what_finishes(run_dir)}")
    scored = scan_scores(run_dir) is not None
    for index in indices:
        frame = read_shard(paths.rollouts(index))
        if scored:
            frame = frame.join(read_shard(paths.scores(index)), on="rollout_id", how="left")
        yield index, frame
