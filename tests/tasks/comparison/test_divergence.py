from pathlib import Path

import polars as pl
import pytest

from tasks.comparison.divergence import find_divergences
from tasks.comparison.pairing import pair_rollouts
from tasks.comparison.rollout_index import index_rollouts
from tasks.records import ROLLOUT_KEY, RunPaths
from tests.support.toy_model import edit, write_toy_run


def divergences(baseline: RunPaths, candidate: RunPaths, **options: int) -> pl.DataFrame:
    pairing = pair_rollouts(index_rollouts(baseline), index_rollouts(candidate))
    return find_divergences(pairing, near_tie_limit=0.25, real_limit=1.0, **options).sort(ROLLOUT_KEY)


def tokens(run: RunPaths) -> dict[tuple[str, str, int], list[int]]:
    frame = pl.concat([pl.read_parquet(path) for path in sorted((run.root / "rollouts").glob("*.parquet"))])
    return {row[:3]: row[3] for row in frame.select(*ROLLOUT_KEY, "completion_ids").iter_rows()}


def test_first_divergences_agree_with_a_plain_loop(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", questions=60, shards=3)
    candidate = write_toy_run(tmp_path / "b", questions=60, shards=4, rounding=0.1, order=1)
    first, second = tokens(baseline), tokens(candidate)
    expected = {}
    for key, ids in first.items():
        if ids != second[key]:
            position = next(i for i, (a, b) in enumerate(zip(ids, second[key], strict=False)) if a != b)
            expected[key] = (position, ids[position], second[key][position])
    columns = (*ROLLOUT_KEY, "position", "baseline_token", "candidate_token")
    found = {row[:3]: row[3:] for row in divergences(baseline, candidate).select(columns).iter_rows()}
    assert found == expected
    assert len(found) > 10


def test_the_size_of_the_blocks_changes_nothing(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", shards=3)
    candidate = write_toy_run(tmp_path / "b", shards=4, rounding=0.2, order=1)
    whole, split = (divergences(baseline, candidate, block_tokens=size) for size in (10**6, 20))
    assert whole.equals(split)
    assert whole.height > 5


def test_a_shorter_completion_diverges_at_its_end(tmp_path: Path) -> None:
    baseline, candidate = write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b")
    for shard in range(2):
        shorter = [pl.col(name).list.head(1).alias(name) for name in ("completion_ids", "logprobs")]
        edit(candidate.rollouts(shard), *shorter)
    found = divergences(baseline, candidate)
    assert set(found["kind"]) == {"cut"}
    assert set(found["position"]) == {1}
    assert set(found["candidate_token"]) == {-1}


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_rounding_gaps_are_positive_and_grow_with_the_rounding(tmp_path: Path, temperature: float) -> None:
    baseline = write_toy_run(tmp_path / "a", questions=200, temperature=temperature)
    largest = []
    for rounding in (0.02, 0.05):
        candidate = write_toy_run(
            tmp_path / str(rounding), questions=200, temperature=temperature, rounding=rounding, order=1
        )
        found = divergences(baseline, candidate)
        assert set(found["kind"]) <= {"near_tie", "wide", "unseen"}
        gaps = found.filter(pl.col("kind") != "unseen")["gap"]
        assert gaps.len() > 5
        assert gaps.min() > 0
        largest.append(gaps.max() * (temperature or 1.0))
    assert largest[0] < largest[1] < 0.5


def test_other_random_numbers_are_not_near_ties(tmp_path: Path) -> None:
    baseline, candidate = write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b", draws=1)
    assert set(divergences(baseline, candidate)["kind"]) <= {"redrawn", "unseen"}
