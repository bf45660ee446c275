from pathlib import Path

import polars as pl
import pytest

from tasks.comparison.pairing import Pairing, pair_rollouts
from tasks.comparison.rollout_index import index_rollouts
from tasks.errors import ConfigError, DamagedFile
from tasks.records import RunPaths
from tests.support.synthetic import publish_shard, write_run
from tests.support.toy_model import edit, write_toy_run


def paired(baseline: RunPaths, candidate: RunPaths) -> Pairing:
    return pair_rollouts(index_rollouts(baseline), index_rollouts(candidate))


def keep(path: Path, condition: pl.Expr) -> None:
    publish_shard(pl.read_parquet(path).filter(condition), path)


def test_runs_with_different_shards_pair_completely(tmp_path: Path) -> None:
    pairing = paired(write_toy_run(tmp_path / "a", shards=1), write_toy_run(tmp_path / "b", shards=6))
    assert pairing.counts.compared == 48
    assert pairing.counts.lost == 0
    assert pairing.frame["base_shard"].n_unique() == 1
    assert pairing.frame["cand_shard"].n_unique() == 6


def test_a_sample_baseline_pairs_with_its_questions(tmp_path: Path) -> None:
    counts = paired(write_toy_run(tmp_path / "a", questions=8), write_toy_run(tmp_path / "b", questions=24)).counts
    assert (counts.baseline, counts.candidate, counts.compared) == (16, 48, 16)
    assert (counts.questions_compared, counts.questions_only_in_baseline, counts.questions_only_in_candidate) == (
        8,
        0,
        16,
    )
    assert (counts.rows_only_in_baseline, counts.rows_only_in_candidate) == (0, 32)
    assert counts.lost == 0


def test_every_row_is_counted(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", questions=12, shards=1)
    candidate = write_toy_run(tmp_path / "b", questions=12, shards=1)
    row = pl.int_range(pl.len())
    keep(candidate.rollouts(0), row != 0)
    failed = pl.when(row.is_in([1, 2])).then(pl.lit("too long"))
    edit(candidate.rollouts(0), failed.alias("error"))
    edit(baseline.rollouts(0), pl.when(row.is_in([2, 4])).then(pl.lit("too long")).alias("error"))
    edit(candidate.scores(0), pl.when(row != 10).then("reward").alias("reward"))
    counts = paired(baseline, candidate).counts
    assert (counts.baseline, counts.candidate) == (24, 23)
    assert counts.rows_only_in_baseline == 1
    # the candidate's rows moved up by one when its first was removed
    assert (counts.failed_in_both, counts.failed_only_in_baseline, counts.failed_only_in_candidate) == (1, 1, 1)
    assert (counts.unscored_only_in_baseline, counts.unscored_only_in_candidate) == (0, 1)
    assert counts.compared == 24 - 1 - 3
    assert counts.lost == 1 + 1 + 1 + 1
    assert counts.lost_share == pytest.approx(4 / 24)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.concat_list("prompt_ids", pl.lit(5, pl.Int32)).alias("prompt_ids"), "prompt tokens"),
        (pl.lit("17").alias("ground_truth"), "ground truth"),
    ],
)
def test_equal_ids_with_different_questions_are_refused(tmp_path: Path, column: pl.Expr, message: str) -> None:
    baseline, candidate = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    edit(candidate.rollouts(1), column)
    with pytest.raises(ConfigError, match=rf"32 of 64 rollouts .* differ in their {message}, such as \(q0000004, "):
        paired(baseline, candidate)


def test_runs_without_a_common_rollout_are_refused(tmp_path: Path) -> None:
    baseline, candidate = write_run(tmp_path / "a", arms=["x"]), write_run(tmp_path / "b", arms=["y"])
    with pytest.raises(ConfigError, match="share no rollout"):
        paired(baseline, candidate)


def test_different_scorers_are_refused(tmp_path: Path) -> None:
    baseline, candidate = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    for shard in range(2):
        edit(candidate.scores(shard), pl.lit("2").alias("scorer_version"))
    with pytest.raises(ConfigError, match=r"synthetic 1 and .* by synthetic 2: .* Score both"):
        paired(baseline, candidate)


def test_a_duplicate_rollout_is_refused(tmp_path: Path) -> None:
    baseline, candidate = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    edit(candidate.rollouts(0), pl.lit("verify").alias("arm_id"))
    with pytest.raises(ConfigError, match=r"32 rollouts with a key that occurs twice, such as \(q0000000, verify, 0\)"):
        paired(baseline, candidate)


def test_a_torn_shard_and_a_run_without_shards_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    content = run.rollouts(1).read_bytes()
    run.rollouts(1).write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFile, match=r"rollouts/shard-00001\.parquet is damaged"):
        index_rollouts(run)
    for shard in range(2):
        run.rollouts(shard).unlink()
    with pytest.raises(ConfigError, match="holds no shards"):
        index_rollouts(run)
