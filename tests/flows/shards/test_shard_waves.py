"""Samples in waves until a rule holds: which rollouts there are, whatever is killed, damaged or arranged otherwise."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.shards.shard_waves import ShardWaves
from tasks.comparison.equivalence import compare_runs
from tasks.errors import ConfigError, PoolClosed
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, make_scores, record_rollouts, shard_dataset
from tasks.plan.waves import find_remaining
from tasks.records import WAVE_STEP, shard_of, wave_of
from tasks.results.damaged_files import set_aside_damaged
from tasks.results.finished_run import planned_shards
from tasks.results.rescore import rescore_run
from tasks.results.scored_rollouts import scored_shards
from tasks.storage.run_files import known_shards, known_waves, missing_shards, problems_of_run, write_manifest
from tests.support.wave_pool import ERROR, NEVER, WavePool, collect, expected_samples, rows_of, wave_plan

MIXED = {"samples_per_arm": 2, "max_samples_per_arm": 7, "sample_until": "mixed"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """The rows of a run that nothing disturbed."""
    plan = wave_plan(tmp_path_factory.mktemp("whole"), **MIXED)
    collect(plan, WavePool())
    return rows_of(plan)


@pytest.mark.parametrize(
    "given",
    [
        MIXED,
        {"samples_per_arm": 1, "max_samples_per_arm": 6, "sample_until": "correct:2"},
        {"samples_per_arm": 3, "max_samples_per_arm": 9, "wave_size": 2, "sample_until": "width:0.6,mixed:2"},
    ],
    ids=lambda given: str(given["sample_until"]),
)
def test_each_group_has_the_samples_that_the_rule_asks_for(given: dict[str, Any], tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **given)
    pool = WavePool()
    waves = collect(plan, pool)
    rows = rows_of(plan)
    samples = Counter((example_id, arm_id) for example_id, arm_id, _ in rows)
    assert samples == expected_samples(plan)
    # error rows fit no rule, and neither do wrong ones alone
    assert all(
        count == given["max_samples_per_arm"]
        for (example_id, _), count in samples.items()
        if example_id == ERROR or (example_id == NEVER and "width" not in given["sample_until"])
    )
    # the samples of a group are its first ones, and each was made once
    assert sorted(rows) == sorted((*group, sample) for group, count in samples.items() for sample in range(count))
    assert sorted(pool.asked) == sorted(rows)
    assert waves.num_expected == len(rows)


def test_the_first_samples_are_those_of_a_run_with_a_fixed_number(whole: dict[Any, Any], tmp_path: Path) -> None:
    fixed = wave_plan(tmp_path, samples_per_arm=7)
    open_shards = shard_dataset(fixed)
    pool = WavePool()
    for shard in open_shards:
        pool.generate(fixed, shard)
    texts = {
        (row["example_id"], row["arm_id"], row["sample_index"]): row["completion"]
        for path in (fixed.paths.root / "rollouts").glob("*.parquet")
        for row in pl.read_parquet(path).iter_rows(named=True)
    }
    assert len(whole) < len(texts)
    assert {key: text for key, (text, _) in whole.items()} == {key: texts[key] for key in whole}


@pytest.mark.parametrize("changes", [{}, {"shard_size": 3}, {"shard_size": 5, "question_batch_size": 1}], ids=str)
def test_other_shards_and_batches_give_the_same_rows(
    changes: dict[str, Any], whole: dict[Any, Any], tmp_path: Path
) -> None:
    plan = wave_plan(tmp_path, **MIXED, **changes)
    collect(plan, WavePool())
    assert rows_of(plan) == whole


@pytest.mark.parametrize("tear", [False, True], ids=["between waves", "inside waves"])
def test_a_run_that_is_ended_again_and_again_makes_no_rollout_twice(
    tear: bool, whole: dict[Any, Any], tmp_path: Path
) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    asked = []
    for _ in range(50):
        pool = WavePool(stop_after=1, tear=tear)
        try:
            collect(plan, pool)
            break
        except PoolClosed:
            assert missing_shards(plan.paths.root)
        finally:
            asked += pool.asked
    assert rows_of(plan) == whole
    assert sorted(asked) == sorted(whole)
    assert not missing_shards(plan.paths.root)
    assert not find_remaining(plan, planned_shards(plan))


def test_a_wave_between_kills_is_named_as_missing(tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    pool = WavePool(stop_after=1)
    with pytest.raises(PoolClosed):
        collect(plan, pool)
    assert "rollouts/shard-00000-w01.parquet" in missing_shards(plan.paths.root)
    with pytest.raises(ConfigError, match="is not a finished run"):
        list(scored_shards(plan.paths.root))


@pytest.mark.parametrize("folder", ["rollouts", "scores", "state/waves", "state/settled"])
def test_a_damaged_file_of_a_wave_is_made_again(folder: str, whole: dict[Any, Any], tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    collect(plan, WavePool())
    for path in sorted((plan.paths.root / folder).glob("shard-00001*")):
        if path.suffix == ".parquet" or folder == "state/settled":
            path.write_bytes(path.read_bytes()[:-2])
    told = set_aside_damaged(plan)
    assert told or folder == "state/waves"
    pool = WavePool()
    collect(plan, pool)
    assert rows_of(plan) == whole
    assert not problems_of_run(plan.paths.root)
    assert {shard_of(index) for index in pool.waves} == ({1} if folder == "rollouts" else set())


@pytest.mark.parametrize("other_rows", [False, True])
def test_of_a_downloaded_run_no_rollout_is_made_again(other_rows: bool, whole: dict[Any, Any], tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    root = plan.paths.root
    collect(plan, WavePool())
    if other_rows:
        # a wave that asks for other samples is no wave of the run
        path = plan.paths.rollouts(WAVE_STEP)
        pl.read_parquet(path).with_columns(pl.col("sample_index") + 1).write_parquet(path)
        record_rollouts(plan.paths, WAVE_STEP)
    write_manifest(root)
    shutil.rmtree(plan.paths.state)
    pool = WavePool()
    collect(plan, pool)
    assert rows_of(plan) == whole
    assert {shard_of(index) for index in pool.waves} == ({0} if other_rows else set())
    assert not find_remaining(plan, planned_shards(plan))


class Mixing(WavePool):
    """Answers right and wrong in turn, as no engine would that made the same rollouts before."""

    def decode(self, completion_ids: list[int], stop: object = ()) -> str:
        return f"#### {7 + len(self.asked) % 2}"


def test_what_other_rows_once_asked_for_is_removed(tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    collect(plan, WavePool())
    root = plan.paths.root
    assert plan.paths.rollouts(1 + 3 * WAVE_STEP).is_file()
    plan.paths.rollouts(1).unlink()
    collect(plan, Mixing())
    # every group of the shard is mixed now
    assert [index for index in known_waves(root, "rollouts") if shard_of(index) == 1] == [1]
    assert [index for index in known_waves(root, "scores") if shard_of(index) == 1] == [1]
    assert not missing_shards(root)
    assert not problems_of_run(root)


def test_readers_see_the_waves_of_a_shard_together(whole: dict[Any, Any], tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    collect(plan, WavePool())
    root = plan.paths.root
    assert [*known_shards(root, "rollouts")] == [0, 1, 2]
    assert {wave_of(index) for index in known_waves(root, "rollouts")} == {0, 1, 2, 3}
    shards = dict(scored_shards(root, ["example_id", "arm_id", "sample_index", "completion", "reward"]))
    rows = {row[:3]: (row[3], row[4]) for frame in shards.values() for row in frame.iter_rows()}
    assert rows == whole
    listed = {file.path: file.rows for file in write_manifest(root).files}
    assert sum(rows or 0 for name, rows in listed.items() if name.startswith("rollouts/")) == len(whole)
    report = rescore_run(root, "gsm8k")
    assert (report.shards, report.rollouts, report.unscored) == (3, len(whole), 0)


def test_a_comparison_takes_what_both_runs_have(whole: dict[Any, Any], tmp_path: Path) -> None:
    stopping = wave_plan(tmp_path, **MIXED)
    collect(stopping, WavePool())
    fixed = wave_plan(tmp_path, samples_per_arm=7)
    open_run(fixed)
    for shard in shard_dataset(fixed):
        WavePool().generate(fixed, shard)
        make_scores(fixed, shard.index)
    roots = stopping.paths.root, fixed.paths.root
    for first, second in (roots, roots[::-1]):
        report = compare_runs(first, second)
        assert (report.verdict, report.rows.lost) == ("bitwise", 0)
        assert report.rows.compared + report.rows.failed_in_both == len(whole)
    # a run that stops by a rule does not say how many rollouts it must have, so it must be finished
    stopping.paths.settled(1).unlink()
    with pytest.raises(ConfigError, match="is not a finished run"):
        compare_runs(*roots)


def test_a_shard_whose_scores_are_awaited_is_no_work_of_the_pool(tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED, shard_size=5)
    open_run(plan)
    (shard,) = shard_dataset(plan)
    in_pool, at_scores = [], []

    class Watched(WavePool):
        def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
            in_pool.append(waves.num_scoring)
            return super().generate(plan, shard)

    waves = ShardWaves(Watched(), plan.num_rollouts)  # type: ignore[arg-type]  # it has what is used of a pool
    waves.generate(plan, shard, log=lambda text: at_scores.append(waves.num_scoring))
    # so the pipeline begins another shard, and batches stay full
    assert (in_pool, at_scores, waves.num_scoring) == ([0, 0, 0, 0], [1, 1, 1, 1], 0)
    # the last wave goes up with its shard
    assert [index for _, index in waves.take_final()] == [0, WAVE_STEP, 2 * WAVE_STEP]


def test_a_scorer_that_fails_on_a_question_ends_no_run(tmp_path: Path) -> None:
    scorer = tmp_path / "scorer.py"
    scorer.write_text(
        "def score(completion, question):\n"
        "    assert question != 'What is 3?'\n"
        "    return float(completion == '#### 7')\n"
    )
    plan = wave_plan(tmp_path, **MIXED, scorer=f"{scorer}:score", shard_size=5)
    collect(plan, WavePool())
    rows = rows_of(plan)
    failed = Counter(arm_id for (example_id, arm_id, _), (_, reward) in rows.items() if example_id == "q3")
    # a rollout without a reward is neither right nor wrong, so the groups go on to the end
    assert set(failed.values()) == {7}
    assert all(reward is None for (example_id, _, _), (_, reward) in rows.items() if example_id == "q3")
    assert plan.paths.rollouts(3 * WAVE_STEP).is_file()
