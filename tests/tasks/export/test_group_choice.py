"""Groups of one size and the best rollouts of a group, also of runs whose groups stopped by a rule."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ConfigError
from tasks.export.advantages import group_advantages
from tasks.export.export_run import ExportManifest, export_run
from tasks.export.filters import DropCounts, ExportFilters, apply_filters, check_filters
from tasks.export.group_choice import choose_rollouts
from tasks.records import RunPaths
from tasks.results.scored_rollouts import scored_shards
from tests.support.harvest_command import Tell
from tests.support.stopped_rollouts import write_stopped_run

GROUP = "group_id"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    root = tmp_path_factory.mktemp("runs") / "run"
    return write_stopped_run(root, "mixed:2", questions_per_shard=12, arms=3, accuracy=0.4, error_rows=0.03)


def exported(run: RunPaths, to: str, out: Path, **filters: Any) -> tuple[ExportManifest, pl.DataFrame]:
    report = export_run(run.root, to, str(out), ExportFilters(**filters))
    return report, pl.read_parquet(out / "train-*.parquet")


def scored(run: RunPaths) -> pl.DataFrame:
    rows = pl.concat([frame for _, frame in scored_shards(run.root)])
    return rows.filter(pl.col("error").is_null())


rewards = st.lists(st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=9)


@given(st.lists(rewards, min_size=1, max_size=6), st.integers(2, 6), st.integers(0, 2**62))
def test_balanced_groups_are_as_near_to_half_right_as_they_can_be(
    groups: list[list[float | None]], size: int, seed: int
) -> None:
    rows = pl.DataFrame(
        [
            (f"g{number}", index, reward, hash((seed, number, index)) >> 1)
            for number, group in enumerate(groups)
            for index, reward in enumerate(group)
        ],
        ["group_id", "sample_index", ("reward", pl.Float32), ("seed", pl.Int64)],
        orient="row",
    )
    filters, counts = ExportFilters(group_size=size, balance=True), DropCounts()
    chosen = choose_rollouts(rows, filters, 0.5, counts)
    for number, group in enumerate(groups):
        right = sum(reward is not None and reward >= 0.5 for reward in group)
        wrong = sum(reward is not None and reward < 0.5 for reward in group)
        found = chosen.filter(group_id=f"g{number}")
        if min(right, wrong) == 0 or right + wrong < size:
            assert found.is_empty()
            continue
        taken = int((found["reward"] >= 0.5).sum())
        possible = [count for count in range(size + 1) if count <= right and size - count <= wrong]
        assert found.height == size
        assert abs(2 * taken - size) == min(abs(2 * count - size) for count in possible)
        assert 0 < taken < size
        assert found["sample_index"].to_list() == sorted(found["sample_index"])
    assert chosen.height + sum(counts.dropped.values()) == rows.height
    # which ones are taken depends on seeds alone, not on the order of the rows
    again = choose_rollouts(rows.sample(fraction=1, shuffle=True, seed=1), filters, 0.5, DropCounts())
    assert {*again.select(GROUP, "sample_index").iter_rows()} == {*chosen.select(GROUP, "sample_index").iter_rows()}


def test_trl_gets_balanced_groups_of_a_run_with_waves(run: RunPaths, tmp_path: Path) -> None:
    report, frame = exported(run, "trl", tmp_path / "out", group_size=4, balance=True)
    groups = frame.group_by(GROUP, maintain_order=True).agg(pl.len(), pl.col("reward").sum())
    assert (report.rollouts_per_group, report.groups, {*groups["len"]}) == (4, groups.height, {4})
    assert {*groups["reward"]} <= {1.0, 2.0, 3.0}
    # rows of a group follow each other, although its waves are in several files
    assert frame.select(pl.col(GROUP).rle().struct.field("len"))["len"].to_list() == [4] * groups.height
    assert {"group has one outcome", "more than group_size"} <= report.dropped.keys()
    assert report.rollouts + sum(report.dropped.values()) == report.rollouts_read


def test_advantages_are_those_of_the_groups_that_are_trained_on(run: RunPaths, tmp_path: Path) -> None:
    _, frame = exported(run, "prime-rl", tmp_path / "out", group_size=4)
    firsts = scored(run).sort(GROUP, "sample_index").filter(pl.len().over(GROUP) >= 4)
    firsts = group_advantages(firsts.filter(pl.int_range(pl.len()).over(GROUP) < 4))
    expected = {tuple(row["prompt_ids"] + row["completion_ids"]): row["advantage"] for row in firsts.to_dicts()}
    assert frame.height == firsts.height
    for row in frame.iter_rows(named=True):
        assert row["advantages"][-1] == pytest.approx(expected[tuple(row["token_ids"])])
    assert "rollouts that are exported" in (tmp_path / "out" / "README.md").read_text()


def test_pass_rates_choose_groups(run: RunPaths, tmp_path: Path) -> None:
    report, frame = exported(run, "parquet", tmp_path / "out", min_pass_rate=0.25, max_pass_rate=0.5)
    rows = scored(run)
    rates = dict(rows.group_by(GROUP).agg(pl.col("reward").mean()).iter_rows())
    expected = rows.filter(pl.col(GROUP).replace_strict(rates).is_between(0.25, 0.5))
    assert {*frame["rollout_id"]} == {*expected["rollout_id"]}
    assert report.dropped["pass rate"] == rows.height - expected.height
    # other filters take parts of groups, and change no pass rate
    shorter, counts = ExportFilters(min_pass_rate=0.25, max_pass_rate=0.5, drop_truncated=True), DropCounts()
    marked = rows.with_columns(is_truncated=pl.col("reward") == 0)
    assert {*apply_filters(marked, shorter, counts)["rollout_id"]} == {*expected.filter(reward=1.0)["rollout_id"]}


def test_the_best_are_right_distinct_and_the_first_of_equals() -> None:
    rows = pl.DataFrame(
        [
            ("g", 0, 0.9, [1]),
            ("g", 1, 1.0, [2]),
            ("g", 2, 1.0, [2]),
            ("g", 3, 1.0, [3]),
            ("g", 4, 0.4, [4]),
            ("g", 5, None, []),
            ("h", 0, 0.5, [1]),
            ("i", 0, 0.0, [1]),
        ],
        ["group_id", "sample_index", ("reward", pl.Float32), "completion_ids"],
        orient="row",
    ).with_columns(rollout_id=pl.format("{}{}", "group_id", "sample_index"))
    for most, wanted in ((1, ["g1", "h0"]), (2, ["g1", "g3", "h0"]), (9, ["g0", "g1", "g3", "h0"])):
        counts = DropCounts()
        assert choose_rollouts(rows, ExportFilters(best=most), 0.5, counts)["rollout_id"].to_list() == wanted
        assert sum(counts.dropped.values()) == rows.height - len(wanted)


@pytest.mark.parametrize(
    ("to", "filters", "message"),
    [
        ("trl", {}, "groups of this run have from 4 to 8 rollouts, as they were sampled until mixed:2"),
        ("verl", {"max_per_group": 5}, "takes groups of one size. Give --group-size"),
        ("trl", {"balance": True}, "Give group_size"),
        ("trl", {"group_size": 1}, "group_size is 1; it must be from 2 to 8"),
        ("trl", {"group_size": 9}, "group_size is 9; it must be from 2 to 8"),
        ("trl", {"group_size": 4, "best": 1}, "best is 1 and group_size is 4: each says which"),
        ("trl", {"group_size": 4, "max_per_group": 2}, "max_per_group is 2 and group_size is 4: each says which"),
        ("verl", {"best": 1}, "Export to trl, parquet or jsonl"),
        ("parquet", {"best": 0}, "best is 0; it must be at least 1"),
        ("parquet", {"min_pass_rate": 30.0}, "min_pass_rate is 30.0; it is a share"),
        ("parquet", {"max_pass_rate": float("nan")}, "max_pass_rate is nan; it is a share"),
        ("parquet", {"min_pass_rate": 0.6, "max_pass_rate": 0.5}, "no group would pass"),
    ],
)
def test_what_makes_no_sense_is_refused(
    to: str, filters: dict[str, Any], message: str, run: RunPaths, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        export_run(run.root, to, str(tmp_path / "out"), ExportFilters(**filters))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_one_size_that_groups_may_have_is_no_range() -> None:
    with pytest.raises(ConfigError, match="group_size is 3; it must be 2, which"):
        check_filters(ExportFilters(group_size=3), [], 2)


def test_groups_of_one_rollout_have_no_advantage_and_nothing_is_written(tmp_path: Path) -> None:
    # groups of the first shard have several rollouts, so that its file would be written
    some = {"shards": 3, "questions_per_shard": 1, "arms": 1, "accuracy": 0.4}
    single = write_stopped_run(tmp_path / "run", "correct:1", first=1, size=1, **some)
    sizes = scored(single).group_by(GROUP, maintain_order=True).len()["len"].to_list()
    assert sizes[0] > 1 == min(sizes)
    for to in ("prime-rl", "parquet"):
        with pytest.raises(ConfigError, match=r"groups of this run have from 1 to .*Give --group-size"):
            export_run(single.root, to, str(tmp_path / to), advantages=True)
        assert not (tmp_path / to).exists()
    _, frame = exported(single, "prime-rl", tmp_path / "out", group_size=2)
    assert frame.height == 2 * sum(size > 1 for size in sizes)


def test_rollouts_without_a_reward_fill_no_group() -> None:
    rows = pl.DataFrame({"group_id": ["g"] * 3 + ["h"] * 2, "reward": [None, 1.0, 0.0, None, 1.0]})
    counts = DropCounts()
    assert choose_rollouts(rows, ExportFilters(group_size=2), 1.0, counts)["reward"].to_list() == [1.0, 0.0]
    assert counts.dropped == {"no reward": 2, "group is too small": 1}
    kept = choose_rollouts(rows, ExportFilters(group_size=2, include_errors=True), 1.0, DropCounts())
    assert kept["reward"].to_list() == [None, 1.0, None, 1.0]


@pytest.mark.parametrize("size", [2, 4])
def test_the_size_of_the_smallest_group_is_one_that_all_have(size: int, run: RunPaths, tmp_path: Path) -> None:
    report, frame = exported(run, "verl", tmp_path / "out", max_per_group=size)
    assert {*frame.group_by("uid").len()["len"]} == {size}
    assert report.rollouts_per_group == size


def test_the_command(tell: Tell, run: RunPaths, tmp_path: Path) -> None:
    command = ("export", str(run.root), "--to", "trl", "--out", str(tmp_path / "out"), "--group-size", "4", "--balance")
    said = tell(*command, "--min-pass-rate", "0.1", "--max-pass-rate", "0.9")
    assert said.code == 0, said.stderr
    assert "(group has one outcome)" not in said.stdout
    assert "(pass rate)" in said.stdout
    both = tell(*command, "--best", "1")
    assert both.code == 2
    assert "--best is 1 and --group-size is 4: each says" in both.stderr
