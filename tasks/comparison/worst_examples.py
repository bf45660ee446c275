"""Selects the worst rollouts with the texts of both runs, so that a person can check a verdict."""

from itertools import takewhile

import polars as pl

from tasks.comparison.equivalence_report import Example
from tasks.comparison.near_tie import REAL_KINDS
from tasks.comparison.pairing import Pairing
from tasks.comparison.rollout_index import RolloutIndex, read_rollouts
from tasks.records import ROLLOUT_KEY, SCORE_SCHEMA, RunPaths
from tasks.storage.published import read_shard

MOST_EXAMPLES = 10
CONTEXT_CHARACTERS = 80
TEXT_CHARACTERS = 400


def worst_examples(pairing: Pairing, divergences: pl.DataFrame, *, most: int = MOST_EXAMPLES) -> tuple[Example, ...]:
    """At most ``most`` rollouts: real divergences first, then changed rewards, then the largest gaps.

    ``divergences`` has DIVERGENCE_SCHEMA and is sorted, worst first.
    """
    changed = (
        pairing.frame.select("pair", moved=(pl.col("cand_reward") - pl.col("base_reward")).abs())
        .filter(pl.col("moved") > 0)
        .top_k(most, by="moved")
    )
    real = divergences.filter(pl.col("kind").cast(pl.String).is_in(REAL_KINDS))
    chosen = (
        pl.concat([real.head(most).select("pair"), changed.select("pair"), divergences.head(most).select("pair")])
        .unique(maintain_order=True)
        .head(most)
        .join(divergences.select("pair", "kind", "position"), on="pair", how="left", maintain_order="left")
        .join(pairing.frame, on="pair", how="left", maintain_order="left")
    )
    if chosen.is_empty():
        return ()
    texts = [
        _texts(index, chosen.select("pair", shard=f"{side}_shard", row=f"{side}_row"))
        for side, index in (("base", pairing.baseline), ("cand", pairing.candidate))
    ]
    return tuple(
        _example(row, *(side.row(by_predicate=pl.col("pair") == row["pair"], named=True) for side in texts))
        for row in chosen.iter_rows(named=True)
    )


def _texts(index: RolloutIndex, places: pl.DataFrame) -> pl.DataFrame:
    rows = read_rollouts(index.paths, places, ["completion", "ground_truth", "rollout_id"])
    answers = [_answers(index.paths, shard) for shard in places["shard"].unique()]
    return rows.join(pl.concat(answers), on="rollout_id", how="left", maintain_order="left")


def _answers(paths: RunPaths, shard: int) -> pl.DataFrame:
    columns = ("rollout_id", "extracted_answer")
    if not paths.scores(shard).exists():
        return pl.DataFrame(schema={name: SCORE_SCHEMA[name] for name in columns})
    return read_shard(paths.scores(shard), columns=list(columns))


def _example(row: dict[str, object], baseline: dict[str, str | None], candidate: dict[str, str | None]) -> Example:
    first, second = _excerpts(baseline["completion"] or "", candidate["completion"] or "")
    key = {name: row[name] for name in ROLLOUT_KEY}
    why = str(row["kind"]) if row["kind"] is not None else "reward changed"
    if row["position"] is not None:
        why = f"{why} at token {row['position']}"
    return Example(
        **key,  # type: ignore[arg-type]
        why=why,
        baseline_text=first,
        candidate_text=second,
        baseline_reward=row["base_reward"],  # type: ignore[arg-type]
        candidate_reward=row["cand_reward"],  # type: ignore[arg-type]
        baseline_answer=baseline["extracted_answer"],
        candidate_answer=candidate["extracted_answer"],
        ground_truth=baseline["ground_truth"],
    )


def _excerpts(first: str, second: str) -> tuple[str, str]:
    parted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    start = max(0, parted - CONTEXT_CHARACTERS) if first != second else 0
    return _excerpt(first, start), _excerpt(second, start)


def _excerpt(text: str, start: int) -> str:
    end = start + TEXT_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
