"""A finished run becomes training data: the columns, the filters, what is refused, and where it goes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import load_dataset

from tasks.errors import ConfigError
from tasks.export.advantages import group_advantages
from tasks.export.export_run import ExportManifest, export_run
from tasks.export.filters import DropCounts, ExportFilters, apply_filters
from tasks.export.formats import FORMATS
from tasks.files import sha256_file
from tasks.records import ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths
from tasks.results.scored_rollouts import scored_shards
from tests.support.s3_servers import Bucket
from tests.support.synthetic import publish_shard, write_run

Row = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    run = write_run(
        tmp_path_factory.mktemp("runs") / "run",
        questions_per_shard=6,
        arms=3,
        samples=4,
        min_tokens=1,
        truncated=0.2,
        error_rows=0.05,
    )
    rows = pl.read_parquet(run.rollouts(1)).select("example_id", "rollout_id")
    suspects = rows.filter(pl.col("example_id") == rows["example_id"][0])["rollout_id"].to_list()
    publish_shard(
        pl.read_parquet(run.scores(1)).with_columns(gold_suspect=pl.col("rollout_id").is_in(suspects)), run.scores(1)
    )
    return run


def scored(run: RunPaths) -> pl.DataFrame:
    return pl.concat([frame for _, frame in scored_shards(run.root)])


def exported(run: RunPaths, to: str, out: Path, **filters: Any) -> tuple[ExportManifest, pl.DataFrame]:
    report = export_run(run.root, to, str(out), ExportFilters(**filters))
    return report, pl.read_parquet(out / "train-*.parquet")


def trainable(run: RunPaths) -> pl.DataFrame:
    return scored(run).filter(pl.col("error").is_null())


def in_whole_groups(rollouts: pl.DataFrame, size: int = 4) -> pl.DataFrame:
    return rollouts.filter(pl.len().over("group_id") == size)


@pytest.mark.parametrize("to", sorted({*FORMATS} - {"jsonl"}))
def test_every_target_is_a_dataset_with_a_manifest(to: str, run: RunPaths, tmp_path: Path) -> None:
    report, frame = exported(run, to, tmp_path / "out")

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["to"], manifest["rollouts"], tuple(manifest["columns"])) == (to, frame.height, report.columns)
    assert all(sha256_file(tmp_path / "out" / file.path) == file.sha256 for file in report.files)
    assert report.rollouts + sum(report.dropped.values()) == report.rollouts_read == scored(run).height
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert (dataset.num_rows, dataset.column_names) == (frame.height, frame.columns)


def test_error_rows_stay_out_unless_asked_for(run: RunPaths, tmp_path: Path) -> None:
    rows = scored(run)
    errors = rows.filter(pl.col("error").is_not_null()).height
    assert errors > 0

    _, without = exported(run, "parquet", tmp_path / "without")
    _, with_errors = exported(run, "parquet", tmp_path / "with", include_errors=True)

    assert (without.height, without["error"].null_count()) == (rows.height - errors, without.height)
    assert with_errors.equals(rows.select(with_errors.columns))
    assert {*with_errors.columns} == {*ROLLOUT_SCHEMA, *SCORE_SCHEMA}


def test_json_lines_hold_the_same_rows(run: RunPaths, tmp_path: Path) -> None:
    export_run(run.root, "jsonl", str(tmp_path / "out"))

    lines = [line for file in sorted((tmp_path / "out").glob("*.jsonl")) for line in file.read_text().splitlines()]
    assert [json.loads(line)["completion_ids"] for line in lines] == trainable(run)["completion_ids"].to_list()


def test_verl(run: RunPaths, tmp_path: Path) -> None:
    _, frame = exported(run, "verl", tmp_path / "out")

    expected = in_whole_groups(trainable(run))
    for row, rollout in zip(frame.iter_rows(named=True), expected.iter_rows(named=True), strict=True):
        length = len(rollout["completion_ids"])
        assert (row["prompts"], row["responses"]) == (rollout["prompt_ids"], rollout["completion_ids"])
        assert (row["response_mask"], row["rollout_log_probs"]) == ([1] * length, rollout["logprobs"])
        assert row["rm_scores"] == [0.0] * (length - 1) + [rollout["reward"]]
        assert (row["uid"], row["prompt"]) == (rollout["group_id"], rollout["prompt"])
        assert row["reward_model"] == {"style": "rule", "ground_truth": rollout["ground_truth"]}
        assert row["data_source"] == "synthetic"


def test_openrlhf_masks_are_one_shorter_than_the_sequence(run: RunPaths, tmp_path: Path) -> None:
    _, frame = exported(run, "openrlhf", tmp_path / "out")

    rollouts = {tuple(row["prompt_ids"] + row["completion_ids"]): row for row in trainable(run).iter_rows(named=True)}
    for row in frame.iter_rows(named=True):
        rollout = rollouts[tuple(row["sequences"])]
        acted = [position + 1 for position, is_action in enumerate(row["action_mask"]) if is_action]
        assert [row["sequences"][position] for position in acted] == rollout["completion_ids"]
        assert [row["rollout_log_probs"][position - 1] for position in acted] == rollout["logprobs"]
        assert len(row["action_mask"]) == len(row["rollout_log_probs"]) == len(row["sequences"]) - 1
        assert (len(row["attention_mask"]), row["total_length"]) == (len(row["sequences"]),) * 2
        assert (row["rewards"], row["truncated"]) == (rollout["reward"], rollout["is_truncated"])


def test_prime_rl_spreads_the_group_advantage_over_the_completion(run: RunPaths, tmp_path: Path) -> None:
    _, frame = exported(run, "prime-rl", tmp_path / "out", min_reward=0.5)

    expected = group_advantages(scored(run)).filter((pl.col("reward") >= 0.5) & pl.col("error").is_null())
    for row, rollout in zip(frame.iter_rows(named=True), expected.iter_rows(named=True), strict=True):
        prompt, completion = len(rollout["prompt_ids"]), len(rollout["completion_ids"])
        assert row["token_ids"] == rollout["prompt_ids"] + rollout["completion_ids"]
        assert row["mask"] == [False] * prompt + [True] * completion
        assert row["logprobs"] == [0.0] * prompt + rollout["logprobs"]
        assert row["temperatures"] == [1.0] * (prompt + completion)
        assert row["advantages"] == pytest.approx([0.0] * prompt + [rollout["advantage"]] * completion)


def test_trl_has_whole_groups_in_a_row(run: RunPaths, tmp_path: Path) -> None:
    report, frame = exported(run, "trl", tmp_path / "out")

    sizes = frame.select(pl.col("group_id").rle().struct.field("len"))["len"]
    assert set(sizes) == {4} == {report.rollouts_per_group}
    assert report.dropped["incomplete group"] == trainable(run).height - frame.height > 0
    assert frame["completion"].list.first().struct.field("role").unique().to_list() == ["assistant"]


@pytest.mark.parametrize("to", ["verl", "trl", "openrlhf"])
@pytest.mark.parametrize("filters", [{}, {"drop_truncated": True}, {"min_reward": 1.0, "max_per_group": 2}])
def test_trainers_that_split_rows_get_groups_of_one_size(to: str, filters: Row, run: RunPaths, tmp_path: Path) -> None:
    report, frame = exported(run, to, tmp_path / "out", **filters)

    kept = apply_filters(scored(run), ExportFilters(**filters), DropCounts())
    assert report.rollouts_per_group == filters.get("max_per_group", 4)
    expected = in_whole_groups(kept, report.rollouts_per_group)
    assert 0 < expected.height < kept.height
    columns = {"verl": "responses", "trl": "completion_ids", "openrlhf": "sequences"}
    ids = (
        expected["completion_ids"]
        if to != "openrlhf"
        else expected.select(pl.concat_list("prompt_ids", "completion_ids"))
    )
    assert frame[columns[to]].to_list() == pl.DataFrame(ids).to_series().to_list()


@pytest.mark.parametrize("to", [name for name, target in FORMATS.items() if target.for_training])
def test_rows_that_the_scorer_gave_no_reward_stay_out(to: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shards=1, arms=2, samples=3)
    unscored = "q0000001/concise/1"
    scores = pl.read_parquet(run.scores(0)).with_columns(
        reward=pl.when(pl.col("rollout_id") != f"run/{unscored}").then("reward")
    )
    publish_shard(scores, run.scores(0))

    report, frame = exported(run, to, tmp_path / "out")

    assert report.dropped == {"no reward": 1, **({"incomplete group": 2} if FORMATS[to].equal_groups else {})}
    assert report.rollouts == frame.height == 24 - sum(report.dropped.values())
    assert not any(frame[name].null_count() for name in frame.columns)


@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ({"min_reward": 1.0}, pl.col("reward") >= 1),
        ({"drop_truncated": True}, ~pl.col("is_truncated")),
        ({"arms": ("algebra", "concise")}, pl.col("arm_id").is_in(["algebra", "concise"])),
        ({"drop_gold_suspects": True}, ~pl.col("gold_suspect")),
        ({"drop_zero_variance": True}, pl.col("reward").n_unique().over("group_id") > 1),
        ({"max_per_group": 2}, pl.int_range(pl.len()).over("group_id") < 2),
        (
            {"drop_truncated": True, "max_per_group": 1},
            ~pl.col("is_truncated") & ((~pl.col("is_truncated")).cum_sum().over("group_id") == 1),
        ),
    ],
)
def test_filters(filters: Row, condition: pl.Expr, run: RunPaths, tmp_path: Path) -> None:
    _, frame = exported(run, "parquet", tmp_path / "out", **filters)

    assert 0 < frame.height < trainable(run).height
    assert frame["rollout_id"].to_list() == trainable(run).filter(condition)["rollout_id"].to_list()


@pytest.mark.parametrize(
    ("to", "filters", "message"),
    [
        ("slime", {}, f"the targets are {', '.join(FORMATS)}"),
        ("verl", {"arms": ("algebra", "poetry")}, "no arm 'poetry'"),
        ("verl", {"include_errors": True}, "cannot take error rows"),
        ("verl", {"min_reward": 2.0}, "none of the 144 rollouts passes"),
        ("verl", {"max_per_group": 0}, "must be at least 1"),
        ("trl", {"max_per_group": 1}, "max_per_group is 1"),
    ],
)
def test_bad_input(to: str, filters: Row, message: str, run: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        exported(run, to, tmp_path / "out", **filters)


@pytest.mark.parametrize("to", ["trl", "prime-rl"])
def test_single_samples_have_no_group(to: str, tmp_path: Path) -> None:
    single = write_run(tmp_path / "single", shards=1)

    with pytest.raises(ConfigError, match="--samples-per-arm 2 or more"):
        exported(single, to, tmp_path / "out")
    assert exported(single, "verl", tmp_path / "verl")[0].rollouts == 32


@pytest.mark.parametrize("to", ["parquet", "jsonl"])
def test_advantages_are_over_the_whole_group_whatever_is_left_out(to: str, run: RunPaths, tmp_path: Path) -> None:
    report = export_run(run.root, to, str(tmp_path / "out"), ExportFilters(min_reward=0.5), advantages=True)

    expected = group_advantages(scored(run)).filter((pl.col("reward") >= 0.5) & pl.col("error").is_null())
    files = [tmp_path / "out" / file.path for file in report.files]
    frame = pl.concat(map(pl.read_parquet if to == "parquet" else pl.read_ndjson, files))
    assert frame["rollout_id"].to_list() == expected["rollout_id"].to_list()
    assert frame["advantage"].to_list() == pytest.approx(expected["advantage"].to_list())
    assert "`advantage` is (reward - mean)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("to", ["verl", "trl", "openrlhf"])
def test_trainers_that_make_their_own_advantages_are_given_none(to: str, run: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no column for advantages"):
        export_run(run.root, to, str(tmp_path / "out"), advantages=True)


def test_unfinished_and_unscored_runs_are_refused(tmp_path: Path) -> None:
    unscored = write_run(tmp_path / "unscored", with_scores=False)
    unfinished = write_run(tmp_path / "unfinished")
    unfinished.rollouts(1).unlink()

    for run, message in ((unscored, "is not scored"), (unfinished, "not a finished run")):
        with pytest.raises(ConfigError, match=message):
            exported(run, "parquet", tmp_path / "out")


def test_a_second_export_replaces_the_first_and_nothing_else(run: RunPaths, tmp_path: Path) -> None:
    exported(run, "parquet", tmp_path / "out")
    second, frame = exported(run, "verl", tmp_path / "out", arms=("algebra",))

    assert "uid" in frame.columns
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        "README.md",
        *(file.path for file in second.files),
    }
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        exported(run, "verl", tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_to_a_bucket(run: RunPaths, tmp_path: Path, bucket: Bucket) -> None:
    report = export_run(run.root, "verl", bucket.url)
    local, _ = exported(run, "verl", tmp_path / "out")

    assert {key.rpartition("/")[2] for key in bucket.listing()} == {
        "manifest.json",
        "README.md",
        *(file.path for file in report.files),
    }
    assert [file.sha256 for file in report.files] == [file.sha256 for file in local.files]


def test_the_report_is_json(run: RunPaths, tmp_path: Path) -> None:
    report, _ = exported(run, "verl", tmp_path / "out")
    assert json.loads(json.dumps(dataclasses.asdict(report)))["filters"]["arms"] == []
