"""Counts how long completions are, for the plots of the report page: all of them, and right against wrong by arm."""

from dataclasses import dataclass

import polars as pl

from tasks.scoring.score import RIGHT_AT, is_right

BINS = 40


@dataclass(frozen=True, kw_only=True)
class LengthBins:
    """A histogram of completion lengths, with bins of equal width."""

    edges: tuple[float, ...]
    """Edges of the bins, in tokens: one more than there are bins."""
    ended: tuple[int, ...]
    """Completions per bin that ended by themselves."""
    truncated: tuple[int, ...]
    """Completions per bin that max_tokens cut off."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How lengths are spread: five percentiles, in tokens."""

    rollouts: int
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class ArmLengths:
    """The lengths of one arm's scored completions; None where it has none of the kind."""

    arm_id: str
    right: Spread | None
    wrong: Spread | None


def length_bins(rows: pl.DataFrame, bins: int = BINS) -> LengthBins:
    """Count the completions in ``rows`` by length, in at most ``bins`` bins of whole tokens, without error rows."""
    done = rows.filter(pl.col("error").is_null())
    longest = max(done["num_completion_tokens"].to_list(), default=0)
    width = max(1, -(-(longest + 1) // bins))
    count = -(-(longest + 1) // width)
    table = done.group_by((pl.col("num_completion_tokens") // width).alias("bin")).agg(
        (~pl.col("is_truncated")).sum().alias("ended"), pl.col("is_truncated").sum().alias("truncated")
    )
    found = {row["bin"]: row for row in table.iter_rows(named=True)}
    return LengthBins(
        edges=tuple(float(width * index) for index in range(count + 1)),
        ended=tuple(found[index]["ended"] if index in found else 0 for index in range(count)),
        truncated=tuple(found[index]["truncated"] if index in found else 0 for index in range(count)),
    )


def arm_lengths(rows: pl.DataFrame, right: float = RIGHT_AT) -> dict[str, ArmLengths]:
    """Return the lengths of right and of wrong completions by arm, without rows that have no reward.

    ``right`` is the reward from which on a completion is right.
    """
    scored = rows.filter(pl.col("error").is_null() & pl.col("reward").is_not_null())
    tokens = pl.col("num_completion_tokens")
    percentiles = [tokens.quantile(share / 100, "linear").alias(f"p{share}") for share in (10, 25, 50, 75, 90)]
    table = scored.group_by("arm_id", is_right("reward", right).alias("right")).agg(
        pl.len().alias("rollouts"), *percentiles
    )
    found = {(row.pop("arm_id"), row.pop("right")): Spread(**row) for row in table.to_dicts()}
    return {
        arm: ArmLengths(arm_id=arm, right=found.get((arm, True)), wrong=found.get((arm, False)))
        for arm in sorted({arm for arm, _ in found})
    }
