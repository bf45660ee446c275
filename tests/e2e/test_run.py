"""The main job as a user runs it: ``harvest run`` with real vLLM, a real Prefect and real files."""

import shutil
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.records import QUESTION_SCHEMA, ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths
from tests.e2e.conftest import OPTIONS, DemoRun
from tests.support.forked_harvest import harvest_forked
from tests.support.harvest_command import Tell

pytestmark = pytest.mark.slow


def rows(run: DemoRun) -> pl.DataFrame:
    return pl.read_parquet(run.root / "rollouts" / "*.parquet")


def test_a_run_gives_every_rollout_once_and_scores_it(demo_run: DemoRun) -> None:
    assert demo_run.outcome.code == 0, demo_run.outcome.stderr
    report = demo_run.outcome.report
    assert (report["num_questions"], report["num_rollouts"], report["num_errors"]) == (8, 64, 0)
    rollouts = rows(demo_run)
    assert rollouts.schema == ROLLOUT_SCHEMA
    assert rollouts.select("example_id", "arm_id", "sample_index").n_unique() == 64
    assert rollouts["rollout_id"].n_unique() == 64
    assert rollouts["seed"].n_unique() == 64
    assert rollouts["group_id"].n_unique() == 64
    scores = pl.read_parquet(demo_run.root / "scores" / "*.parquet")
    assert scores.schema == SCORE_SCHEMA
    assert set(scores["rollout_id"]) == set(rollouts["rollout_id"])


def test_tokens_texts_and_logprobs_belong_together(demo_run: DemoRun) -> None:
    rollouts = rows(demo_run)
    assert (rollouts["logprobs"].list.len() == rollouts["completion_ids"].list.len()).all()
    assert (rollouts["num_completion_tokens"] == rollouts["completion_ids"].list.len()).all()
    assert (rollouts["num_prompt_tokens"] == rollouts["prompt_ids"].list.len()).all()
    logprobs = rollouts["logprobs"].explode()
    assert logprobs.is_finite().all()
    assert (logprobs <= 1e-6).all()
    assert set(rollouts["finish_reason"]) <= {"stop", "length"}
    assert rollouts["completion"].str.contains("####").any()
    assert not rollouts["completion"].str.contains("<|im_end|>", literal=True).any()


def test_the_report_says_what_the_files_say(demo_run: DemoRun) -> None:
    report = demo_run.outcome.report
    scores = pl.read_parquet(demo_run.root / "scores" / "*.parquet")
    assert report["mean_reward"] == pytest.approx(scores["reward"].mean())
    assert len(report["arms"]) == 8
    assert report["generation"]["tokens"] == rows(demo_run)["num_completion_tokens"].sum()


def test_it_begins_with_what_it_will_take_and_ends_with_what_it_took(demo_run: DemoRun, tell: Tell) -> None:
    outcome = demo_run.outcome.report["outcome"]
    told = "expected: 64 rollouts, about 1,024 completion tokens (at most 2,048), time unknown, "
    assert told in demo_run.outcome.stderr
    assert (
        "tokens: a guess, 50% of max_tokens, as no earlier run tells; time: no earlier run" in demo_run.outcome.stderr
    )
    made = demo_run.outcome.report["generation"]
    assert (outcome["expected_tokens"], outcome["tokens"]) == (1024, made["tokens"])
    assert outcome["seconds"] == pytest.approx(made["seconds"] + made["start_seconds"], abs=0.01)

    given = ("--questions", "16", *OPTIONS[2:], "--runs-dir", demo_run.runs_dir, "--json")
    expected = tell("plan", *given).report["expected"]
    mean = demo_run.outcome.report["overall"]["mean_completion_tokens"]
    assert (expected["rollouts"], expected["completion_tokens"]) == (128, round(128 * mean))
    speed = expected["speed_from"]
    assert (speed["run"], speed["other"]) == (demo_run.root.name, [])
    assert speed["same"] == ["model", "settings", "device", "arms", "sampling"]
    assert expected["tokens_per_s"] == pytest.approx(made["tokens_per_second"], rel=0.01)
    size = sum(file.stat().st_size for name in ("rollouts", "scores") for file in (demo_run.root / name).iterdir())
    assert expected["disk_bytes"] == pytest.approx(2 * size, rel=0.01)
    again = tell("plan", *OPTIONS, "--runs-dir", demo_run.runs_dir, "--json").report["expected"]
    assert (again["rollouts"], again["rollouts_finished"], again["seconds"]) == (0, 64, 0.0)


def test_the_run_directory_is_the_documented_one(demo_run: DemoRun) -> None:
    root = demo_run.root
    paths = RunPaths(root=root)
    assert [path.exists() for path in (paths.config, paths.preflight, paths.report, paths.manifest)] == [True] * 4
    assert pl.read_parquet(paths.questions(0)).schema == QUESTION_SCHEMA
    assert sorted(path.name for path in (root / "rollouts").iterdir()) == [f"shard-0000{i}.parquet" for i in range(4)]
    assert not list(root.rglob(".*.tmp"))
    assert not list((root / "state" / "journal").glob("*"))


def test_the_engines_counters_are_in_the_telemetry(demo_run: DemoRun) -> None:
    frame = pl.read_parquet(RunPaths(root=demo_run.root).telemetry)
    assert frame.schema == TELEMETRY_SCHEMA
    counters = ["preemptions", "prefix_cache_hits", "prefix_cache_queries", "generation_tokens"]
    made = frame.filter(source="replica", session=frame["session"].min())
    replica = made.select("running", "waiting", "kv_cache_usage", *counters)
    assert replica.null_count().sum_horizontal().item() == 0
    assert all(replica[name].is_sorted() for name in counters)
    session = demo_run.outcome.report["generation"]["sessions"][0]
    assert datetime.fromisoformat(session["started_at"]) <= made.filter(pl.col("generation_tokens") > 0)["time"].min()
    last = replica.row(-1, named=True)
    # the last sample is of the end
    assert last["generation_tokens"] == demo_run.outcome.report["generation"]["tokens"]
    assert last["prefix_cache_queries"] >= rows(demo_run)["num_prompt_tokens"].sum()
    # the cache shares whole blocks, which on a CPU are longer than these prompts, and has room for all sequences
    assert (last["prefix_cache_hits"], last["preemptions"]) == (0, 0)
    assert replica["running"].is_between(0, 128).all()
    assert replica["kv_cache_usage"].is_between(0, 1).all()


def test_datasets_loads_the_rollouts(demo_run: DemoRun, tmp_path: Path) -> None:
    import datasets

    files = str(demo_run.root / "rollouts" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == 64
    assert loaded[0]["prompt"][0]["role"] == "system"


def test_another_scorer_generates_nothing_and_keeps_the_runs_own_scores(
    demo_run: DemoRun, tmp_path: Path, prefect_api: str
) -> None:
    runs_dir = tmp_path / "runs"
    root = Path(shutil.copytree(demo_run.root, runs_dir / demo_run.root.name))
    paths = [*root.glob("scores/*"), root / "config.json", root / "report.json", root / "report.html"]
    before = {path: path.read_bytes() for path in paths}
    (tmp_path / "mine.py").write_text("def score(completion, arm):\n    return {'reward': 0.5, 'arm_name': arm}\n")
    arguments = ("--runs-dir", runs_dir, "--scorer", f"{tmp_path / 'mine.py'}:score", "--json")
    again = harvest_forked(prefect_api, "run", *OPTIONS, *arguments)
    assert again.code == 0, again.stderr
    assert again.report["mean_reward"] == 0.5
    assert "the run keeps its own scores" in again.stderr
    assert {path: path.read_bytes() for path in paths} == before
    [folder] = root.glob("scores@mine.py-score-*")
    assert pl.read_parquet(folder / "shard-*.parquet")["arm_name"].n_unique() == 8


def test_the_same_command_again_generates_nothing_and_makes_damaged_records_again(
    demo_run: DemoRun, tmp_path: Path, prefect_api: str
) -> None:
    runs_dir = tmp_path / "runs"
    paths = RunPaths(root=Path(shutil.copytree(demo_run.root, runs_dir / demo_run.root.name)))
    before = {path: path.stat().st_mtime_ns for path in paths.root.glob("*/shard-*.parquet")}
    damaged = [paths.config, paths.report]
    for path in damaged:
        path.write_text("[" * 100_000)
    again = harvest_forked(prefect_api, "run", *OPTIONS, "--runs-dir", runs_dir, "--json")
    assert again.code == 0, again.stderr
    for path in damaged:
        assert again.stderr.count(f"warning: {path} is damaged: ") == 1
        assert path.with_name(f"{path.name}.damaged").read_text() == "[" * 100_000
        assert path.stat().st_size != 100_000
    assert "4 of 4 shards are finished and skipped" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert again.report["mean_reward"] == demo_run.outcome.report["mean_reward"]
    assert again.report["generation"] == demo_run.outcome.report["generation"]
