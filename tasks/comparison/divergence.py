"""Finds the first token at which each rollout of two runs differs, and classifies the cause.

Only the first difference shows its cause, since the tokens after it continue different texts. Token lists are read in
blocks, so that memory does not grow with the run.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.comparison.near_tie import REAL_KINDS, RESOLUTION, Choice, Integers, classify
from tasks.comparison.pairing import Pairing
from tasks.comparison.rollout_index import RolloutIndex, read_rollouts
from tasks.distributions import poisson_sf
from tasks.records import ROLLOUT_KEY

BLOCK_TOKENS = 4_000_000
_CHANCE = 1e-6
_CONTESTED = ("logprobs", "top_logprob_ids", "top_logprobs")
# the worst kind comes first, so that a list sorted by kind starts with the worst rollouts
_KINDS = pl.Enum([*REAL_KINDS, "no_top_logprobs", "redrawn", "wide", "unseen", "near_tie"])

DIVERGENCE_SCHEMA = pl.Schema(
    [
        ("pair", pl.UInt32),
        ("position", pl.Int64),
        ("baseline_token", pl.Int64),
        ("candidate_token", pl.Int64),
        ("baseline_logprob", pl.Float64),
        ("candidate_logprob", pl.Float64),
        ("gap", pl.Float64),
        ("drift", pl.Float64),
        ("limit", pl.Float64),
        ("kind", _KINDS),
    ]
)
"""One row per pair that differs. ``position`` counts completion tokens from 0. ``gap``, ``drift`` and ``limit`` are in
nats (see tasks.comparison.near_tie). A token of -1 stands for the end of the completion."""


def find_divergences(
    pairing: Pairing, *, near_tie_limit: float, real_limit: float, block_tokens: int = BLOCK_TOKENS
) -> pl.DataFrame:
    """Every pair that differs, in DIVERGENCE_SCHEMA with ROLLOUT_KEY; the limits are in nats at temperature 1."""
    found = [_contradictions(pairing.frame)]
    real_factor = real_limit / near_tie_limit
    found += [
        _divergences_of(pairing, block, near_tie_limit, real_factor) for block in _blocks(pairing.frame, block_tokens)
    ]
    frame = pl.concat(found)
    keys = pairing.frame.select("pair", *ROLLOUT_KEY)
    frame = frame.join(keys, on="pair", how="left", maintain_order="left")
    return _mark_redrawn(frame, pairing.frame)


def _contradictions(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs with the same tokens but different settings, different texts, or different rewards for the same text."""
    same = pl.col("base_ids") == pl.col("cand_ids")
    settings = pl.col("base_settings") != pl.col("cand_settings")
    text = pl.col("base_text") != pl.col("cand_text")
    scored = pl.col("base_reward").is_not_null() & pl.col("cand_reward").is_not_null()
    reward = scored & (
        (pl.col("base_reward") != pl.col("cand_reward")) | (pl.col("base_answer") != pl.col("cand_answer"))
    )
    return (
        pairs.filter(same & (settings | text | reward))
        .select(
            "pair",
            kind=pl.when(settings)
            .then(pl.lit("settings"))
            .when(text)
            .then(pl.lit("text"))
            .otherwise(pl.lit("reward"))
            .cast(_KINDS),
        )
        .match_to_schema(DIVERGENCE_SCHEMA, missing_columns="insert")
    )


def _blocks(pairs: pl.DataFrame, block_tokens: int) -> Iterator[pl.DataFrame]:
    differing = pairs.filter(pl.col("base_ids") != pl.col("cand_ids")).sort("base_shard", "base_row")
    block = (pl.col("base_tokens") + pl.col("cand_tokens")).cast(pl.Int64).cum_sum() // (2 * block_tokens)
    yield from differing.with_columns(block=block).partition_by("block", maintain_order=True, include_key=False)


def _divergences_of(pairing: Pairing, block: pl.DataFrame, limit: float, real_factor: float) -> pl.DataFrame:
    block = block.sort("pair")
    sides = (("base", pairing.baseline), ("cand", pairing.candidate))
    ids = [
        read_rollouts(index.paths, _places(block, side), ["completion_ids"])["completion_ids"] for side, index in sides
    ]
    position = _first_differences(*ids)
    at = pl.Series("position", position)
    tokens = [series.list.get(at, null_on_oob=True).fill_null(-1).to_numpy().astype(np.int64) for series in ids]
    del ids
    choices = [
        _choice(index, _places(block, side).with_columns(at), token)
        for (side, index), token in zip(sides, tokens, strict=True)
    ]
    temperature = block["base_temperature"].fill_null(1.0).to_numpy()
    greedy = temperature < 1e-5  # vLLM's own bound
    limits = limit / np.where(greedy, 1.0, temperature)
    verdicts = classify(*choices, greedy=greedy, limit=limits, real_limit=limits * real_factor)
    torn = block.select(
        ~pl.all_horizontal(pl.col("base_logprobs_complete", "cand_logprobs_complete").fill_null(True))
    ).to_series()
    # different tokens with equal logprobs throughout: only the last token can be an exact tie
    copied = block.select(
        (pl.col("base_logprobs") == pl.col("cand_logprobs"))
        & (at + 1 < pl.col("base_tokens"))
        & pl.col("base_mean_logprob").is_not_null()
    ).to_series()
    verdicts.kind[(torn | copied).fill_null(True).to_numpy()] = "inconsistent"
    verdicts.kind[(block["base_settings"] != block["cand_settings"]).to_numpy()] = "settings"
    return pl.DataFrame(
        {
            "pair": block["pair"],
            "position": position,
            "baseline_token": choices[0].token,
            "candidate_token": choices[1].token,
            "baseline_logprob": choices[0].logprob,
            "candidate_logprob": choices[1].logprob,
            "gap": verdicts.gap,
            "drift": verdicts.drift,
            "limit": limits,
            "kind": pl.Series(verdicts.kind.tolist(), dtype=_KINDS),
        },
        schema=DIVERGENCE_SCHEMA,
        nan_to_null=True,
    )


def _places(block: pl.DataFrame, side: str) -> pl.DataFrame:
    return block.select("pair", shard=f"{side}_shard", row=f"{side}_row")


def _first_differences(first: pl.Series, second: pl.Series) -> Integers:
    """Position of the first token that differs; the shorter length when one list is the beginning of the other."""
    # the file of others may lack the tokens of a rollout
    first, second = first.fill_null([]), second.fill_null([])
    lengths = [series.list.len().to_numpy().astype(np.int64) for series in (first, second)]
    shared: Integers = np.minimum(*lengths)
    row = np.repeat(np.arange(shared.size), shared)
    position = np.arange(row.size) - np.repeat(np.cumsum(shared) - shared, shared)
    flat = [
        series.explode(empty_as_null=False).to_numpy()[np.repeat(np.cumsum(length) - length, shared) + position]
        for series, length in zip((first, second), lengths, strict=True)
    ]
    differs = np.flatnonzero(flat[0] != flat[1])
    rows, earliest = np.unique(row[differs], return_index=True)
    shared[rows] = position[differs[earliest]]
    return shared


def _choice(index: RolloutIndex, places: pl.DataFrame, token: Integers) -> Choice:
    columns = [pl.col(name).list.get(pl.col("position"), null_on_oob=True) for name in _CONTESTED]
    rows = read_rollouts(index.paths, places, columns)
    return Choice(
        token=token,
        logprob=rows["logprobs"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        top_ids=_padded(rows["top_logprob_ids"], -1).astype(np.int64),
        top_logprobs=_padded(rows["top_logprobs"], -np.inf).astype(np.float64),
    )


def _padded(lists: pl.Series, fill: float) -> npt.NDArray[Any]:
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    padded = np.full((lengths.size, max(1, lengths.max(initial=0))), fill)
    row = np.repeat(np.arange(lengths.size), lengths)
    column = np.arange(row.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[row, column] = lists.drop_nulls().explode(empty_as_null=False).to_numpy()
    return padded


def _mark_redrawn(frame: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Change sampled flips without a gap to the kind ``redrawn`` when there are more than rounding can make.

    With the same noise, log-odds that move by at most d flip a token with probability at most 1 - exp(-d) < d.
    """
    closed = (pl.col("kind") == "near_tie") & (pl.col("gap").abs() <= RESOLUTION)
    sampled = pairs.filter(pl.col("base_temperature") >= 1e-5).select("pair")
    ambiguous = frame.filter(closed).join(sampled, on="pair", how="semi")["pair"]
    positions = int(pairs.select(pl.min_horizontal("base_tokens", "cand_tokens").sum()).item())
    if not ambiguous.len() or poisson_sf(ambiguous.len() - 1, RESOLUTION * positions) >= _CHANCE:
        return frame
    redrawn = closed & pl.col("pair").is_in(ambiguous.implode())
    return frame.with_columns(kind=pl.when(redrawn).then(pl.lit("redrawn", _KINDS)).otherwise("kind"))
