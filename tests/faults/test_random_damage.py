"""Whatever happens to a file of a run: it is noticed and named, or made again, or harmless."""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from flows.commands.cli import main
from tasks.comparison.equivalence import validate_run
from tasks.files import publish_parquet
from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import scores_made_from, shard_dataset
from tasks.plan.waves import find_remaining
from tasks.results.damaged_files import set_aside_damaged
from tasks.results.finished_run import finished_report
from tasks.results.summary import summarize_run
from tasks.results.summary_subprocess import publish_page_and_card
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import record_published, recorded_path
from tasks.storage.run_files import problems_of_run, write_manifest
from tests.faults.runs import only_run_dir, parameters, read_rows, start_generation, write_profile
from tests.support.random_damage import damage_one

pytestmark = pytest.mark.slow

CASES = 8
RESUMES = 2
"""A group of cases has a seed of its own, and so many cases of each kind."""
GROUPS = [*range(6), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(6, 60))]

COMMANDS: dict[str, Callable[[str, str, Path], list[str]]] = {
    "show": lambda run, other, out: ["show", run, "--limit", "0"],
    "arms": lambda run, other, out: ["arms", run],
    "runs": lambda run, other, out: ["runs"],
    "report": lambda run, other, out: ["report", run],
    "export": lambda run, other, out: ["export", run, "--to", "jsonl", "--out", f"{out}"],
    "score": lambda run, other, out: ["score", run],
    "diff": lambda run, other, out: ["diff", other, run],
    "compare": lambda run, other, out: ["compare", other, run],
    "upload": lambda run, other, out: ["upload", run, f"{out}"],
    "verify": lambda run, other, out: ["verify", run],
}


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A finished run, and another one of the same questions."""

    plan: RunPlan
    other: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("damage")
    profile = write_profile(folder, backend="tests.support.fake_engines:FakeEngine")
    plans = []
    for batch in (2, 4):
        changes = {"questions": 4, "shard_size": 2, "question_batch_size": batch, "name": f"batch-{batch}"}
        start_generation(folder / "runs", profile, changes=changes).finish()
        plans.append(plan_run(config_from_parameters(parameters(profile, **changes)), folder / "runs"))
        finish(plans[-1])
    first, second = plans
    validate_run(second.paths.root, first.paths.root)
    write_manifest(second.paths.root)
    return Runs(plan=second, other=first.paths.root)


def finish(plan: RunPlan) -> None:
    """Do what a flow does after the rollouts are generated."""
    paths = plan.paths
    for shard in find_remaining(plan, shard_dataset(plan)).to_score:
        score_shard(paths.rollouts(shard.index), scores := paths.scores(shard.index))
        record_published(scores, made_from=scores_made_from(paths, shard.index, load_scorer("gsm8k")))
    if not paths.telemetry.exists():
        publish_parquet(pl.DataFrame(schema=TELEMETRY_SCHEMA), paths.telemetry, recorded_path)
    summarize_run(paths.root)
    assert publish_page_and_card(paths.root) == []
    write_manifest(paths.root)


@pytest.mark.parametrize("seed", GROUPS)
def test_a_command_notices_random_damage(
    seed: int,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw = random.Random(seed)
    for _ in range(CASES):
        name = draw.choice(sorted(COMMANDS))
        shutil.rmtree(tmp_path)
        whole = tell(name, runs, tmp_path, capsys, lambda run_dir: ("", set()))
        shutil.rmtree(tmp_path)
        caplog.clear()
        found = tell(name, runs, tmp_path, capsys, lambda run_dir: damage_one(draw, run_dir, runs.other))
        case = f"{name} after {found.done}: code {found.code}\n{found.out}\n{found.err}\n{caplog.text}"
        assert found.code in (0, 1, 2, 3), case
        assert "Traceback" not in found.err + caplog.text, case
        if found.code != whole.code and name != "verify":
            assert re.fullmatch("harvest: error: [^\n]+\n", found.err), case
        if (found.code, found.out, found.files) != (whole.code, whole.out, whole.files):
            told = found.err + found.out + caplog.text
            names = {file_of(name) for name in found.changed}
            assert any(name in told for name in names) or "is not a finished run" in told, case


def file_of(name: str) -> str:
    """The published file that a changed one is, or is the record of."""
    if name.startswith("state/published/"):
        return name.removeprefix("state/published/").removesuffix(".json")
    shard = re.fullmatch(r"(?:state/)?((?:questions|rollouts|scores)/shard-\d+)\..*", name)
    return shard[1] if shard else name


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a command said of a damaged run, and wrote."""

    code: int
    out: str
    err: str
    files: dict[str, str]
    done: str
    """The damage."""
    changed: set[str]
    """The names of the damaged files."""


def tell(
    name: str,
    runs: Runs,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], tuple[str, set[str]]],
) -> Told:
    """Damage a copy of the run, and run a command on it."""
    copies = folder / "runs"
    for run_dir in (runs.plan.paths.root, runs.other):
        shutil.copytree(run_dir, copies / run_dir.name)
    run_dir = copies / runs.plan.run_id
    done, changed = damage(run_dir)
    arguments = COMMANDS[name](str(run_dir), str(copies / runs.other.name), folder / "out")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json", *([] if name == "verify" else ["--runs-dir", str(copies)])])
    printed = capsys.readouterr()
    return Told(
        code=int(ended.value.code or 0),
        out=normal(printed.out),
        err=printed.err,
        files={path.name: path.read_text() for path in (folder / "out").glob("*.jsonl")},
        done=done,
        changed=changed,
    )


def normal(out: str) -> str:
    """Leave out what differs from call to call."""
    return re.sub(r'"(updated|bytes|bytes_sent|etag|sha256|manifest_sha256)": [^,\n}]+', "", out)


@pytest.mark.parametrize("seed", GROUPS)
def test_the_run_makes_again_what_is_damaged(seed: int, runs: Runs, tmp_path: Path) -> None:
    draw = random.Random(1000 + seed)
    rows = read_rows(runs.plan.paths.root)
    for case in range(RESUMES):
        runs_dir = tmp_path / str(case)
        shutil.copytree(runs.plan.paths.root, runs_dir / runs.plan.run_id)
        plan = plan_run(runs.plan.config, runs_dir)
        assert plan.paths.root == only_run_dir(runs_dir)
        before = finished_report(plan)
        assert before is not None
        done, _ = damage_one(draw, plan.paths.root, runs.other)
        assert finished_report(plan) in (before, None), done
        named = set_aside_damaged(plan)
        open_run(plan)
        for shard in find_remaining(plan, shard_dataset(plan)).to_generate:
            shutil.copy(runs.plan.paths.rollouts(shard.index), plan.paths.rollouts(shard.index))
            record_published(plan.paths.rollouts(shard.index))
        finish(plan)
        assert problems_of_run(plan.paths.root) == [], (done, named)
        assert finished_report(plan) is not None, (done, named)
        known = {path: path for path in plan.paths.root.joinpath("rollouts").glob("shard-0000[01].parquet")}
        assert len(known) == 2
        for path in sorted(plan.paths.root.joinpath("rollouts").iterdir()):
            if path not in known:
                path.unlink()
        assert read_rows(plan.paths.root) == rows, (done, named)
