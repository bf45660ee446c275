"""Indexes the rollouts of a run: one row each, with hashes in place of tokens and texts.

A comparison needs all rows of both runs at once, and the hashes of a million rows fit in memory.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.comparison.comparability import read_comparable_config, stated_count
from tasks.errors import ConfigError
from tasks.locks import what_finishes
from tasks.plan.fingerprint import STOPPING
from tasks.records import OWN_SCORES, ROLLOUT_KEY, SCORE_SCHEMA, RunPaths
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_shards, missing_shards

# One process hashes both runs, so 64-bit hashes of one pair collide with probability 2^-64.
_INDEX_COLUMNS = (
    pl.col(*ROLLOUT_KEY, "rollout_id", "finish_reason", "temperature", "dtype"),
    pl.col("completion_ids").hash().alias("ids"),
    pl.col("completion_ids").list.len().alias("tokens"),
    pl.col("completion").hash().alias("text"),
    pl.col("logprobs").hash().alias("logprobs"),
    pl.col("logprobs").list.mean().alias("mean_logprob"),
    (pl.col("logprobs").list.len() == pl.col("completion_ids").list.len()).alias("logprobs_complete"),
    pl.col("prompt_ids").hash().alias("prompt"),
    pl.col("ground_truth").hash().alias("gold"),
    pl.struct("temperature", "top_p", "seed").hash().alias("settings"),
    pl.col("error").is_not_null().alias("failed"),
)
_SCORE_COLUMNS = ("rollout_id", "reward", "extracted_answer", "scorer", "scorer_version")


@dataclass(frozen=True, kw_only=True)
class RolloutIndex:
    """The rollouts of one run."""

    paths: RunPaths
    frame: pl.DataFrame
    """One row per rollout: ROLLOUT_KEY, its place (``shard``, ``row``), its hashes, and its score."""
    dtypes: frozenset[str]
    """The number formats that the rollouts state."""
    scorers: frozenset[str]
    """Name and version of each scorer that made the scores; empty when the run is not scored."""
    scored: int
    """Rollouts that a file of scores has, with a reward or without."""
    stated: int | None
    """Rollouts that the run was made to have, by its ``config.json``; None when that states none."""
    groups_stop: bool = False
    """True when its groups stop by a rule, so that another run may have samples of a group that it lacks."""


def index_rollouts(paths: RunPaths) -> RolloutIndex:
    """The index of every published rollout shard of a run.

    Raises ConfigError when the run has no rollouts, a shard cannot be read, or a rollout occurs twice; where groups
    stop by a rule, also when it is not finished, since its configuration does not tell how many rollouts it must have.
    """
    config = read_comparable_config(paths.root)
    groups_stop = STOPPING in config["comparable"]
    shards = known_shards(paths.root, "rollouts")
    if not shards:
        raise ConfigError(f"{paths.root / 'rollouts'} holds no shards. Give the directory of a finished run")
    if groups_stop and (missing := missing_shards(paths.root)):
        raise ConfigError(
            f"{paths.root} is not a finished run: it lacks {missing[0]} ({len(missing)} in all). "
            f"{what_finishes(paths.root)}"
        )
    frames = []
    dtypes: set[str] = set()
    scorers: set[str] = set()
    scored = 0
    for shard in shards:
        rollouts = _collect(scan_shard(paths.rollouts(shard), row_index_name="row").select("row", *_INDEX_COLUMNS))
        scores = _scores(paths, shard)
        dtypes.update(rollouts["dtype"].drop_nulls().unique())
        scorers.update(_scorer_names(scores))
        rows = rollouts.join(scores, on="rollout_id", how="left", maintain_order="left")
        scored += rows["scorer"].count()
        frames.append(
            rows.with_columns(
                pl.col("extracted_answer").hash().alias("answer"), pl.lit(shard, pl.UInt32).alias("shard")
            ).drop("rollout_id", "dtype", "scorer", "scorer_version", "extracted_answer")
        )
    frame = pl.concat(frames)
    twice = frame.filter(pl.struct(ROLLOUT_KEY).is_duplicated())
    if twice.height:
        example = ", ".join(map(str, twice.select(ROLLOUT_KEY).row(0)))
        raise ConfigError(
            f"{paths.root} holds {twice.height} rollouts with a key that occurs twice, such as ({example}). "
            f"({', '.join(ROLLOUT_KEY)}) must be unique: generate the run again"
        )
    return RolloutIndex(
        paths=paths,
        frame=frame,
        dtypes=frozenset(dtypes),
        scorers=frozenset(scorers),
        scored=scored,
        stated=stated_count(config, "num_rollouts"),
        groups_stop=groups_stop,
    )


def count_rollouts(run_dir: Path) -> int:
    """How many rollouts the published shards of a run hold. Raises ConfigError when a shard cannot be read."""
    paths = RunPaths(root=run_dir)
    return sum(
        int(_collect(scan_shard(paths.rollouts(shard)).select(pl.len())).item())
        for shard in known_shards(run_dir, "rollouts")
    )


def scorers_of(run_dir: Path, scores: str = OWN_SCORES) -> frozenset[str]:
    """Name and version of each scorer that made the scores of a run; empty when it is not scored."""
    paths = RunPaths(root=run_dir, scores_folder=scores)
    shards = [_scores(paths, shard) for shard in known_shards(run_dir, scores)]
    return frozenset(_scorer_names(pl.concat(shards))) if shards else frozenset()


def check_same_scorer(baseline: tuple[Path, Set[str]], candidate: tuple[Path, Set[str]]) -> None:
    """Raise ConfigError when different scorers scored two runs, each given as its directory and its scorers."""
    (first, first_scorers), (second, second_scorers) = baseline, candidate
    if first_scorers and second_scorers and first_scorers != second_scorers:
        raise ConfigError(
            f"{first} was scored by {', '.join(sorted(first_scorers))} and {second} by "
            f"{', '.join(sorted(second_scorers))}: rewards of different scorers cannot be compared. "
            "Score both runs with the same scorer; no rollout is generated again"
        )


def read_rollouts(paths: RunPaths, rows: pl.DataFrame, columns: Sequence[pl.Expr | str]) -> pl.DataFrame:
    """``columns`` of the rollouts at ``rows``, in the order of ``pair``.

    ``rows`` has ``pair``, ``shard``, ``row`` and every other column that ``columns`` use. Only the shards that hold
    these rows are read, one at a time. Raises ConfigError when a shard cannot be read.
    """
    parts = [
        _collect(
            scan_shard(paths.rollouts(shard), row_index_name="row")
            .slice(low, high - low + 1)
            .join(wanted.lazy(), on="row", how="inner")
            .select("pair", *columns)
        )
        for shard, low, high, wanted in _by_shard(rows)
    ]
    return pl.concat(parts).sort("pair")


def _by_shard(rows: pl.DataFrame) -> Iterator[tuple[int, int, int, pl.DataFrame]]:
    for (shard,), part in rows.partition_by("shard", as_dict=True).items():
        low, high = part.select(low=pl.col("row").min(), high=pl.col("row").max()).row(0)
        yield int(shard), int(low), int(high), part.drop("shard")


def _scorer_names(scores: pl.DataFrame) -> set[str]:
    return {f"{name} {version}" for name, version in scores.select("scorer", "scorer_version").unique().iter_rows()}


def _scores(paths: RunPaths, shard: int) -> pl.DataFrame:
    path = paths.scores(shard)
    if not path.exists():
        return pl.DataFrame(schema={name: SCORE_SCHEMA[name] for name in _SCORE_COLUMNS})
    return _collect(scan_shard(path).select(_SCORE_COLUMNS))


def _collect(frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"a shard cannot be read: {reason}. Restore it, or generate the run again") from error
