"""A run has its own scores and other sets: every reader takes one, none replaces another unasked."""

import json
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.files import read_json
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import folder_for, plan_run
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.adopt_scores import adopt_scores
from tasks.results.rescore import rescore_run
from tasks.storage.run_files import problems_of_run, write_manifest
from tasks.storage.score_sets import find_scores, other_sets, own_scorer, right_at
from tests.support.harvest_command import Tell
from tests.support.report_run import write_report_run

HALF = "my_scorer.py:half"
SOURCE = """
def half(completion, example_id):
    row = {"reward": 0.5, "extracted_answer": "h"}
    if example_id.endswith("1"):
        row["length"] = len(completion)
    return row if example_id.endswith(("1", "2", "3")) else {**row, "length": "long", "late": True}


def every(completion):
    return 1
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    monkeypatch.chdir(tmp_path)
    Path("my_scorer.py").write_text(SOURCE)
    run = write_report_run(tmp_path / "runs" / "run", questions_per_shard=4, arms=2, samples=2, accuracy=0.6)
    write_manifest(run.root)
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_columns_that_differ_between_shards_are_one_table_afterwards(run: RunPaths) -> None:
    report = rescore_run(run.root, HALF)
    scores = pl.scan_parquet(report.directory / "shard-*.parquet").collect()
    assert scores.select("late", "length").schema == {"late": pl.Boolean, "length": pl.String}
    before = files(report.directory)
    assert files(rescore_run(run.root, HALF).directory) == before
    assert pl.read_parquet(run.scores(0)).columns == pl.read_parquet(run.scores(1)).columns


def test_every_reader_takes_a_set(run: RunPaths, tell: Tell) -> None:
    before = {name: data for name, data in files(run.root).items() if not name.startswith(("scores@", "state"))}
    made = tell("score", run.root, "--scorer", HALF, "--right-at", "0.5", "--json")
    name = Path(made.report["directory"]).name.removeprefix("scores@")
    use = ("--scores", "my_scorer.py-half")

    shown = [json.loads(line) for line in tell("show", run.root, *use, "--right", "--json").stdout.splitlines()]
    assert len(shown) == 20
    assert {(row["reward"], row["scorer"], row["is_right"]) for row in shown} == {(0.5, HALF, True)}
    assert tell("show", run.root, *use, "--wrong", "--json").stdout == ""
    assert "reward 0.5; late True; length 'long'; read 'h'" in tell("show", run.root, *use, "--right").stdout
    assert [arm["mean_reward"] for arm in tell("arms", run.root, *use, "--json").report["arms"]] == [0.5, 0.5]
    diff = tell("diff", run.root, run.root, *use, "--json").report
    assert (diff["first_mean"], diff["second_mean"]) == (0.5, 0.5)
    assert tell("compare", run.root, run.root, *use, "--json").report["verdict"] == "bitwise"
    export = tell("export", run.root, "--to", "parquet", "--out", "out", *use, "--json").report
    assert {"length", "late"} <= {*export["columns"]}
    assert {*pl.read_parquet("out/*.parquet")["reward"].drop_nulls()} == {0.5}
    page = Path(tell("report", run.root, *use, "--json").report["report"])
    assert page == run.root / f"scores@{name}" / "report.html"

    after = {name: data for name, data in files(run.root).items() if not name.startswith(("scores@", "state"))}
    assert after == before
    refused = tell("show", run.root, "--scores", "my_scorer.py-hlaf")
    assert refused.code == 2
    assert f". Did you mean {name}? harvest score makes others" in refused.stderr


def test_a_set_becomes_the_runs_own_and_the_other_one_is_kept(run: RunPaths, tell: Tell) -> None:
    own, scorer = files(run.root / "scores"), own_scorer(run.root)
    rescore_run(run.root, HALF, 0.5)
    [name] = other_sets(run.root)
    told = tell("score", run.root, "--use", name)
    assert told.code == 0, told.stderr
    assert "mean reward 0.5" in told.stdout
    assert {*pl.read_parquet(run.root / "scores" / "*.parquet")["reward"].drop_nulls()} == {0.5}
    assert (right_at(run.root), read_json(run.config)["config"]["scorer"]) == (0.5, HALF)
    assert read_json(run.report)["mean_reward"] == 0.5
    assert not problems_of_run(run.root)
    [kept] = other_sets(run.root)
    assert find_scores(run.root, name) == OWN_SCORES

    # the same again changes nothing, and the way back is the same
    adopt_scores(run.root, name)
    assert other_sets(run.root) == [kept]
    adopt_scores(run.root, kept)
    assert files(run.root / "scores") == own
    assert own_scorer(run.root) == scorer
    assert other_sets(run.root) == [name]
    with pytest.raises(ConfigError, match="'nothing' is no set of scores"):
        adopt_scores(run.root, "nothing")


def test_a_kill_between_two_shards_loses_nothing(run: RunPaths) -> None:
    own = files(run.root / "scores")
    rescore_run(run.root, HALF)
    [name] = other_sets(run.root)
    adopt_scores(run.root, name)
    [kept] = other_sets(run.root)
    # as after a kill: the set is still there, and one shard is copied
    rescore_run(run.root, HALF)
    for path in (run.scores(1), RunPaths(root=run.root, scores_folder=f"scores@{kept}").scores(1)):
        path.write_bytes(own["shard-00001.parquet"])
        record = run.state / path.parent.name / "shard-00001.json"
        record.write_text((run.state / f"scores@{kept}" / "shard-00001.json").read_text())
    adopt_scores(run.root, f"scores@{name}")
    assert {*pl.read_parquet(run.root / "scores" / "*.parquet")["reward"].drop_nulls()} == {0.5}
    adopt_scores(run.root, kept)
    assert files(run.root / "scores") == own


def test_another_scorer_of_a_finished_run_has_its_own_set(run: RunPaths) -> None:
    own = own_scorer(run.root)
    assert own is not None
    assert folder_for(run.root, HALF).startswith("scores@my_scorer.py-half-")
    run.manifest.unlink()
    assert folder_for(run.root, HALF) == OWN_SCORES, "an unfinished run goes on with what is asked for"


def test_the_configuration_keeps_the_scorer_of_the_runs_own_scores(tmp_path: Path, run: RunPaths) -> None:
    runs = tmp_path / "other"
    plan = plan_run(config_from_parameters({"questions": 2, "name": "n"}), runs)
    open_run(plan)
    for index in (0, 1):
        target = plan.paths.scores(index)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(run.scores(index).read_bytes())
    plan.paths.manifest.write_text("{}")
    other = plan_run(config_from_parameters({"questions": 2, "name": "n", "scorer": HALF}), runs)
    assert other.fingerprint == plan.fingerprint
    assert other.paths.scores(0).parent.name.startswith("scores@my_scorer.py-half-")
    before = plan.paths.config.read_bytes()
    open_run(other)
    assert plan.paths.config.read_bytes() == before


def test_a_scorer_asks_for_columns_of_the_dataset(tmp_path: Path, run: RunPaths) -> None:
    rows = [{"question": "1 + 1?", "answer": "2", "level": 3, "tags": ["a"]}]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("level.py").write_text("def score(completion, level, tags):\n    return level\n")
    asked = {"dataset": "data.jsonl", "scorer": "level.py:score"}
    plan = plan_run(config_from_parameters(asked), tmp_path / "runs")
    assert json.loads(plan.questions["row"][0]) == {"level": 3, "tags": ["a"]}
    assert plan.fingerprint == plan_run(config_from_parameters({"dataset": "data.jsonl"}), tmp_path).fingerprint
    Path("level.py").write_text("def score(completion, levle):\n    return levle\n")
    with pytest.raises(ConfigError, match="parameter 'levle', which is no name of ours and no column of dataset "):
        plan_run(config_from_parameters(asked), tmp_path / "runs")


def test_a_dry_run_tries_a_scorer_and_writes_nothing(run: RunPaths, tell: Tell) -> None:
    before = files(run.root)
    tried = tell("score", "--dry-run", "gsm8k", "--json").report["texts"]
    assert {(text["kind"], text["reward"]) for text in tried if text["is_gold"]} == {
        ("the ground truth alone", 0.0),
        ("after ####", 1.0),
        ("in \\boxed{}", 1.0),
    }
    shown = tell("score", "--dry-run", "my_scorer.py:every")
    assert (shown.code, "does not tell ground truths from other texts" in shown.stdout) == (0, True)
    Path("broken.py").write_text("def score(completion):\n    return 1 / 0\n")
    broken = tell("score", "--dry-run", "broken.py:score")
    assert broken.code == 2
    assert "at broken.py:2: return 1 / 0" in broken.stderr
    Path("level.py").write_text("def score(completion, level):\n    return level\n")
    lacking = tell("score", "--dry-run", "level.py:score")
    assert "no column of dataset demo; it has 'id', 'question', 'answer'" in lacking.stderr
    assert "For your own dataset name a run of it: harvest score RUN --dry-run S" in lacking.stderr
    assert files(run.root) == before
    assert tell("score").code == 2
