"""The equivalence verdicts for runs of real engines: equal bits, rounding, tampering, too little data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest

from tasks.comparison.equivalence import compare_runs
from tasks.generation.reference_loops import LoopName, ReferenceJob
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.records import RunPaths
from tests.e2e.conftest import PARAMETERS, DemoRun
from tests.faults.runs import command
from tests.support.engine_script import run_loop_here
from tests.support.harvest_command import Tell
from tests.support.random_model import make_random_model
from tests.support.synthetic import publish_shard

pytestmark = pytest.mark.slow

MARK = "HARVEST_TESTS_LOOP"
"""An environment variable of a loop's processes."""
Run = Callable[[ReferenceJob, Path, bool], None]
BFLOAT16_PROFILE = """
name = "random-bfloat16"
question_batch_size = 16
start_timeout_s = 300

[engine]
dtype = "bfloat16"
max_model_len = 1024
enforce_eager = true
enable_chunked_prefill = false
max_num_batched_tokens = 4096
max_num_seqs = 128
kv_cache_space_gib = 1

[expect]
device = "cpu"
"""


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def bfloat16(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The random model in bfloat16: one sequence at a time, and 16 in a call, which takes other kernels."""
    directory = tmp_path_factory.mktemp("model")
    arms = directory / "arms.toml"
    arms.write_text('[[arms]]\nid = "direct"\nsystem_prompt = "Reply with the answer only"\n')
    profile = directory / "profile.toml"
    profile.write_text(BFLOAT16_PROFILE)
    model = make_random_model(directory / "random")
    plan = _plan(
        runs_dir, profile=str(profile), model=str(model), arms=str(arms), questions=16, max_tokens=32, top_logprobs=20
    )
    return _generate(plan, "baseline", runs_dir, run_loop_here), _generate(plan, "script", runs_dir, run_loop_here)


@pytest.fixture(scope="module")
def rounded(bfloat16: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same, where rounding shows."""
    if compare_runs(*bfloat16).verdict == "bitwise":
        pytest.skip("this processor's bfloat16 kernels give the same bits for every batch")
    return bfloat16


def test_float32_is_bitwise_whatever_the_batch(demo_run: DemoRun) -> None:
    assert demo_run.outcome.code == 0, demo_run.outcome.stderr
    assert demo_run.outcome.report["equivalence"]["verdict"] == "bitwise"
    assert "8 of 8 questions" in demo_run.outcome.stderr


def test_bfloat16_differs_by_rounding_alone(rounded: tuple[Path, Path]) -> None:
    report = compare_runs(*rounded, require="numerical")
    assert report.tokens.identical < report.tokens.rollouts
    assert report.verdict == "numerical", report.reason
    assert dict(report.tokens.kinds) == {"near_tie": report.tokens.rollouts - report.tokens.identical}
    for row in report.tokens.worst:
        assert row.gap is not None
        assert row.limit is not None
        assert 0 <= row.gap <= row.limit


def test_a_swapped_reply_is_found(demo_run: DemoRun, tmp_path: Path) -> None:
    tampered = _copy(demo_run.root, tmp_path)
    path = tampered.rollouts(0)
    frame = pl.read_parquet(path)
    own = ("completion", "completion_ids", "logprobs", "top_logprob_ids", "top_logprobs", "num_completion_tokens")
    order = [1, 0, *range(2, frame.height)]
    publish_shard(frame.with_columns(frame[name][order] for name in own), path)
    report = compare_runs(demo_run.baseline, tampered.root)
    assert report.verdict == "different"
    named = {(row.example_id, row.arm_id) for row in report.tokens.worst}
    assert named == set(frame.select("example_id", "arm_id").head(2).iter_rows())


@pytest.mark.parametrize("rows_are_forged", [False, True])
def test_another_temperature_under_a_forged_fingerprint_is_found(
    demo_run: DemoRun, hotter: Path, tmp_path: Path, rows_are_forged: bool
) -> None:
    forged = _copy(hotter, tmp_path)
    config = json.loads(forged.config.read_text())
    config["comparable"] = json.loads((demo_run.baseline / "config.json").read_text())["comparable"]
    forged.config.write_text(json.dumps(config))
    if rows_are_forged:
        path = forged.rollouts(0)
        publish_shard(pl.read_parquet(path).with_columns(temperature=pl.lit(0.7)), path)
    report = compare_runs(demo_run.baseline, forged.root)
    assert report.verdict == "different"
    assert report.tokens.worst
    assert report.tokens.worst[0].kind == ("shifted" if rows_are_forged else "settings")
    assert report.examples


def test_an_engine_core_in_a_process_of_its_own_ends_with_the_loop_that_it_served(hotter: Path, runs_dir: Path) -> None:
    (log,) = (hotter / "logs").glob("reference.log")
    assert "EngineCore pid=" in log.read_text()
    # one that lives on would hold its GPU's memory, and the next engine would not start; what tracks shared memory ends
    # by itself, after the process that it serves
    left = [process for process in psutil.process_iter() if _environment(process).get(MARK) == str(runs_dir)]
    assert not [process for process in left if "resource_tracker" not in " ".join(command(process))]


def test_too_few_questions_are_inconclusive(rounded: tuple[Path, Path], tmp_path: Path) -> None:
    baseline, candidate = rounded
    blind = _copy(candidate, tmp_path)
    path = blind.rollouts(0)
    frame = pl.read_parquet(path)
    nothing = [pl.lit(None, frame.schema[name]).alias(name) for name in ("top_logprob_ids", "top_logprobs")]
    publish_shard(frame.with_columns(nothing), path)
    report = compare_runs(baseline, blind.root)
    assert report.verdict == "inconclusive"
    assert report.questions_needed is not None
    assert report.questions_needed > 16


def test_compare_prints_the_verdict_and_exits_by_it(rounded: tuple[Path, Path], tell: Tell) -> None:
    passed = tell("compare", *rounded, "--require", "numerical", "--json")
    assert (passed.code, passed.report["verdict"]) == (0, "numerical")
    short = tell("compare", *rounded, "--require", "bitwise")
    assert short.code == 3
    assert "numerical" in short.stdout
    assert "bitwise was required" in short.stderr


def test_runs_of_other_models_are_refused(demo_run: DemoRun, bfloat16: tuple[Path, Path], tell: Tell) -> None:
    refused = tell("compare", demo_run.root, bfloat16[0])
    assert refused.code == 2
    assert "model" in refused.stderr


@pytest.fixture(scope="module")
def hotter(runs_dir: Path) -> Path:
    """Its engine core has a process of its own, as with several GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        patch.setenv(MARK, str(runs_dir))
        # in one shard, all of which a test forges
        parameters = {**PARAMETERS, "shard_size": PARAMETERS["questions"], "temperature": 0.8}
        return _generate(_plan(runs_dir, **parameters), "script", runs_dir)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _plan(runs_dir: Path, **parameters: object) -> RunPlan:
    return plan_run(config_from_parameters(parameters), runs_dir)


def _generate(plan: RunPlan, loop: LoopName, runs_dir: Path, run: Run | None = None) -> Path:
    return run_reference(reference_plan(plan, loop, runs_dir, name=loop), loop, run=run).plan.paths.root


def _copy(run: Path, directory: Path) -> RunPaths:
    return RunPaths(root=Path(shutil.copytree(run, directory / "tampered")))
