"""The main job as a user runs it: ``harvest run`` with real vLLM, a real Prefect and real files."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.records import QUESTION_SCHEMA, ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths
from tests.support.harvest_command import Outcome, harvest

pytestmark = pytest.mark.slow

SHORT = ("--questions", "40", "--max-tokens", "32", "--json")


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(runs_dir: Path, prefect_api: str) -> Outcome:
    """40 questions in shards of 8: the run that the tests of this module look at."""
    return harvest("run", *SHORT, "--shard-size", "8", "--runs-dir", runs_dir, PREFECT_API_URL=prefect_api)


def rows(report: dict[str, Any]) -> pl.DataFrame:
    return pl.scan_parquet(Path(report["run_dir"]) / "rollouts" / "*.parquet").collect()


def test_a_run_gives_every_rollout_once_and_scores_it(first: Outcome) -> None:
    assert first.code == 0, first.stderr
    report = first.report
    assert (report["num_questions"], report["num_rollouts"], report["num_errors"]) == (40, 320, 0)
    rollouts = rows(report)
    assert rollouts.schema == ROLLOUT_SCHEMA
    assert rollouts.select("example_id", "arm_id", "sample_index").n_unique() == 320
    assert rollouts["rollout_id"].n_unique() == 320
    assert rollouts["seed"].n_unique() == 320
    assert rollouts["group_id"].n_unique() == 320
    scores = pl.read_parquet(Path(report["run_dir"]) / "scores" / "*.parquet")
    assert scores.schema == SCORE_SCHEMA
    assert set(scores["rollout_id"]) == set(rollouts["rollout_id"])


def test_tokens_texts_and_logprobs_belong_together(first: Outcome) -> None:
    rollouts = rows(first.report)
    assert (rollouts["logprobs"].list.len() == rollouts["completion_ids"].list.len()).all()
    assert (rollouts["num_completion_tokens"] == rollouts["completion_ids"].list.len()).all()
    assert (rollouts["num_prompt_tokens"] == rollouts["prompt_ids"].list.len()).all()
    logprobs = rollouts["logprobs"].explode()
    assert logprobs.is_finite().all()
    assert (logprobs <= 1e-6).all()
    assert set(rollouts["finish_reason"]) <= {"stop", "length"}
    assert rollouts["completion"].str.contains("####").any()
    assert not rollouts["completion"].str.contains("<|im_end|>", literal=True).any()


def test_the_report_says_what_the_files_say(first: Outcome) -> None:
    report = first.report
    scores = pl.read_parquet(Path(report["run_dir"]) / "scores" / "*.parquet")
    assert report["mean_reward"] == pytest.approx(scores["reward"].mean())
    assert len(report["arms"]) == 8
    assert report["generation"]["tokens"] == rows(report)["num_completion_tokens"].sum()


def test_the_run_directory_is_the_documented_one(first: Outcome) -> None:
    root = Path(first.report["run_dir"])
    paths = RunPaths(root=root)
    assert [path.exists() for path in (paths.config, paths.preflight, paths.report, paths.manifest)] == [True] * 4
    assert pl.read_parquet(paths.questions(0)).schema == QUESTION_SCHEMA
    assert sorted(path.name for path in (root / "rollouts").iterdir()) == [f"shard-0000{i}.parquet" for i in range(5)]
    assert not list(root.rglob(".*.tmp"))
    assert not list((root / "state" / "journal").glob("*"))


def test_the_engines_counters_are_in_the_telemetry(first: Outcome) -> None:
    frame = pl.read_parquet(RunPaths(root=Path(first.report["run_dir"])).telemetry)
    assert frame.schema == TELEMETRY_SCHEMA
    counters = ["preemptions", "prefix_cache_hits", "prefix_cache_queries", "generation_tokens"]
    made = frame.filter(source="replica", session=frame["session"].min())
    replica = made.select("running", "waiting", "kv_cache_usage", *counters)
    assert replica.null_count().sum_horizontal().item() == 0
    assert all(replica[name].is_sorted() for name in counters)
    last = replica.row(-1, named=True)
    # the last sample is of the end
    assert last["generation_tokens"] == first.report["generation"]["tokens"]
    assert last["prefix_cache_queries"] >= rows(first.report)["num_prompt_tokens"].sum()
    # the cache shares whole blocks, which on a CPU are longer than these prompts, and has room for all sequences
    assert (last["prefix_cache_hits"], last["preemptions"]) == (0, 0)
    assert replica["running"].is_between(0, 128).all()
    assert replica["kv_cache_usage"].is_between(0, 1).all()
    assert replica.filter(pl.col("running") > 0)["kv_cache_usage"].sum() > 0


def test_datasets_loads_the_rollouts(first: Outcome, tmp_path: Path) -> None:
    import datasets

    files = str(Path(first.report["run_dir"]) / "rollouts" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == 320
    assert loaded[0]["prompt"][0]["role"] == "system"


def test_another_scorer_generates_nothing_and_keeps_the_runs_own_scores(
    first: Outcome, runs_dir: Path, prefect_api: str, tmp_path: Path
) -> None:
    root = Path(first.report["run_dir"])
    paths = [*root.glob("scores/*"), root / "config.json", root / "report.json", root / "report.html"]
    before = {path: path.read_bytes() for path in paths}
    (tmp_path / "mine.py").write_text("def score(completion, arm):\n    return {'reward': 0.5, 'arm_name': arm}\n")
    arguments = (*SHORT, "--shard-size", "8", "--runs-dir", runs_dir, "--scorer", f"{tmp_path / 'mine.py'}:score")
    again = harvest("run", *arguments, PREFECT_API_URL=prefect_api)
    assert again.code == 0, again.stderr
    assert again.report["mean_reward"] == 0.5
    assert "the run keeps its own scores" in again.stderr
    assert {path: path.read_bytes() for path in paths} == before
    [folder] = root.glob("scores@mine.py-score-*")
    assert pl.read_parquet(folder / "shard-*.parquet")["arm_name"].n_unique() == 8


def test_the_same_command_again_generates_nothing_and_makes_damaged_records_again(
    first: Outcome, tmp_path: Path, prefect_api: str
) -> None:
    runs_dir = tmp_path / "runs"
    paths = RunPaths(root=Path(shutil.copytree(first.report["run_dir"], runs_dir / first.report["run_id"])))
    before = {path: path.stat().st_mtime_ns for path in paths.root.glob("*/shard-*.parquet")}
    damaged = [paths.config, paths.report]
    for path in damaged:
        path.write_text("[" * 100_000)
    again = harvest("run", *SHORT, "--shard-size", "8", "--runs-dir", runs_dir, PREFECT_API_URL=prefect_api)
    assert again.code == 0, again.stderr
    for path in damaged:
        assert again.stderr.count(f"warning: {path} is damaged: ") == 1
        assert path.with_name(f"{path.name}.damaged").read_text() == "[" * 100_000
        assert path.stat().st_size != 100_000
    assert "5 of 5 shards are finished and skipped" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert again.report["mean_reward"] == first.report["mean_reward"]
    assert again.report["generation"] == first.report["generation"]
