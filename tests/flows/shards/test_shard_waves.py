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
from tasks.plan.shards import Shard, make_scores, record_rollouts, rollouts_to_make, shard_dataset
from tasks.plan.waves import find_remaining
from tasks.records import WAVE_STEP, shard_of, wave_of
from tasks.results.damaged_files import set_aside_damaged
from tasks.results.finished_run import planned_shards
from tasks.results.group_pass_rates import group_pass_rates, wave_plan_of
from tasks.results.rescore import rescore_run
from tasks.results.scored_rollouts import load_metric_rows, scored_shards
from tasks.results.stopping_report import undecided_warning
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
    left = find_remaining(plan, planned_shards(plan))
    # what needs no engine asks for none
    assert [shard.index for shard in left.to_generate] == ([1] if folder == "rollouts" else [])
    assert [shard.index for shard in left.to_score] == ([1] if folder in ("scores", "state/settled") else [])
    pool = WavePool()
    collect(plan, pool)
    assert rows_of(plan) == whole
    assert not problems_of_run(plan.paths.root)
    assert {shard_of(index) for index in pool.waves} == ({1} if folder == "rollouts" else set())


@pytest.mark.parametrize("other_rows", [False, True])
def test_of_a_downloaded_run_no_rollout_is_made_again(other_rows: bool, whole: dict[Any, Any], tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    collect(plan, WavePool())
    if other_rows:
        # a wave that asks for other samples is no wave of the run
        path = plan.paths.rollouts(WAVE_STEP)
        pl.read_parquet(path).with_columns(pl.col("sample_index") + 1).write_parquet(path)
        record_rollouts(plan.paths, WAVE_STEP)
    download(plan)
    left = find_remaining(plan, planned_shards(plan))
    assert [shard.index for shard in left.to_generate] == ([0] if other_rows else [])
    assert left.to_score == []
    assert bool(rollouts_to_make(plan)) is False
    pool = WavePool()
    collect(plan, pool)
    assert rows_of(plan) == whole
    assert {shard_of(index) for index in pool.waves} == ({0} if other_rows else set())
    assert not find_remaining(plan, planned_shards(plan))


def download(plan: RunPlan) -> None:
    """Leave of a finished run what ``harvest download`` brings back."""
    write_manifest(plan.paths.root)
    shutil.rmtree(plan.paths.state)


@pytest.mark.parametrize(
    ("kept", "lost"), [(True, "shard-00001.parquet"), (False, "shard-0000*.parquet")], ids=["kept here", "downloaded"]
)
def test_a_run_whose_scores_are_lost_is_only_scored(
    kept: bool, lost: str, whole: dict[Any, Any], tmp_path: Path
) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    collect(plan, WavePool())
    if not kept:
        download(plan)
    for path in (plan.paths.root / "scores").glob(lost):
        path.write_bytes(b"PAR1")
    assert set_aside_damaged(plan)
    left = find_remaining(plan, planned_shards(plan))
    assert left.to_generate == []
    assert {shard.index for shard in left.to_score} == ({1} if "1" in lost else {0, 1, 2})
    assert sum(shard.num_rollouts for shard in left.generated) == len(whole)
    # again and again, it is the same
    for _ in range(2):
        collect(plan, WavePool(stop_after=0))
        assert rows_of(plan) == whole
        assert not find_remaining(plan, planned_shards(plan))
        assert not problems_of_run(plan.paths.root)


SCORER = """
SCORER_VERSION = "1"
RIGHT = "#### 7"


def score(completion):
    return float(completion == RIGHT)
"""


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "under way"])
def test_scores_that_would_have_decided_otherwise_lose_no_row(
    settled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    plan = wave_plan(tmp_path, **MIXED, scorer=f"{scorer}:score", shard_size=5)
    collect(plan, WavePool())
    folder = plan.paths.root / "rollouts"
    before = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    assert len(before) == 4
    # it says that it is the same, and finds no answer right
    scorer.write_text(SCORER.replace("7", "9"))
    if settled:
        download(plan)
    else:
        plan.paths.settled(0).unlink()
    lost = plan.paths.scores(0)
    lost.unlink()
    pool = WavePool()
    collect(plan, pool)
    assert lost.is_file()
    assert not find_remaining(plan, planned_shards(plan))
    groups = group_pass_rates(load_metric_rows(plan.paths), wave_plan_of(plan.paths.root), 1.0)
    warning = undecided_warning(groups, wave_plan_of(plan.paths.root))
    if settled:
        assert pool.waves == []
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert warning is not None
        assert "first 2 samples" in warning
    else:
        # no group was mixed after the first wave, so that the second is still what the scores ask for
        assert pool.waves == [2 * WAVE_STEP, 3 * WAVE_STEP]
        aside = _set_aside(folder)
        assert sorted(aside) == ["shard-00000-w02.parquet", "shard-00000-w03.parquet"]
        assert aside == {name: before[name] for name in aside}
        assert "shard-00000-w02.parquet was asked for by other scores" in caplog.text
        assert warning is None


def _set_aside(folder: Path) -> dict[str, bytes]:
    return {path.name.removesuffix(".damaged"): path.read_bytes() for path in folder.glob("*.damaged")}


class Mixing(WavePool):
    """Answers right and wrong in turn, as no engine would that made the same rollouts before."""

    def decode(self, completion_ids: list[int], stop: object = ()) -> str:
        return f"#### {7 + len(self.asked) % 2}"


def test_what_other_rows_once_asked_for_is_set_aside(tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    collect(plan, WavePool())
    root = plan.paths.root
    later = [plan.paths.rollouts(1 + wave * WAVE_STEP) for wave in (1, 2, 3)]
    made = {path.name: path.read_bytes() for path in later}
    plan.paths.rollouts(1).unlink()
    collect(plan, Mixing())
    assert _set_aside(root / "rollouts") == made
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


def test_a_scorer_that_changes_while_it_decides_ends_the_run(whole: dict[Any, Any], tmp_path: Path) -> None:
    scorer, source = tmp_path / "scorer.py", "def score(completion):\n    return float(completion == '#### 7')\n"
    scorer.write_text(source)
    plan = wave_plan(tmp_path, **MIXED, scorer=f"{scorer}:score")

    class Changing(WavePool):
        def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
            if shard.index == 1:
                scorer.write_text(source.replace("7", "8"))
            return super().generate(plan, shard)

    with pytest.raises(ConfigError, match="has changed since the run began"):
        collect(plan, Changing())
    scorer.write_text(source)
    collect(plan, WavePool())
    assert rows_of(plan) == whole


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
