"""Logprobs of real engines, recomputed: a healthy run agrees, and usual faults are told from it and from each other."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from profiles.load import DEMO_MODEL
from tasks.comparison.mismatch import measure_mismatch
from tasks.comparison.mismatch_report import MismatchReport, publish_mismatch, read_mismatch
from tasks.comparison.mismatch_request import plan_mismatch
from tasks.files import publish_parquet
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.plan.prompts import TEXT, ChatTokenizer
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.records import RunPaths
from tasks.results.run_report import read_report
from tasks.results.summary import summarize_run
from tasks.scoring.score_shard import score_shard
from tasks.storage.published import record_published
from tasks.storage.run_files import write_manifest
from tasks.storage.verify import verify_run
from tests.support.checkpoints import write_checkpoint
from tests.support.engine_script import run_loop_here
from tests.support.harvest_command import Tell, harvest_here

pytestmark = pytest.mark.slow

AGREES = 1e-5
"""Nats that float32 explains: kernels of two libraries add in different orders."""
DIFFERS = 100 * AGREES


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def healthy(runs_dir: Path) -> RunPaths:
    """A finished run of the demo model at temperature 0.7."""
    run = generate(runs_dir, temperature=0.7)
    score_shard(run.rollouts(0), run.scores(0))
    record_published(run.scores(0))
    summarize_run(run.root)
    write_manifest(run.root)
    return run


def generate(runs_dir: Path, **sampling: float) -> RunPaths:
    name = "-".join(sampling)
    plan = plan_run(config_from_parameters({"questions": 8, "max_tokens": 32, **sampling}), runs_dir)
    return run_reference(reference_plan(plan, "script", runs_dir, name=name), "script", run=run_loop_here).plan.paths


def copied(run: RunPaths, directory: Path, **columns: pl.Expr | pl.Series) -> RunPaths:
    """A copy of the run whose rollouts have other ``columns``."""
    copy = RunPaths(root=Path(shutil.copytree(run.root, directory / "copy")))
    publish_parquet(pl.read_parquet(copy.rollouts(0)).with_columns(**columns), copy.rollouts(0))
    record_published(copy.rollouts(0))
    return copy


def measure(run: RunPaths, model: str | None = None) -> MismatchReport:
    return measure_mismatch(plan_mismatch(run.root, model=model, sample=40, seed=0, device="cpu"))


def other_prompts(report: MismatchReport) -> int:
    return sum(arm.prompts_differ for arm in report.arms)


def test_a_healthy_run_agrees(healthy: RunPaths) -> None:
    found = measure(healthy)
    assert (found.rollouts, found.truncated, found.same_weights, other_prompts(found)) == (40, None, True, 0)
    assert found.full.tokens > 400
    assert found.full.mean_gap is not None
    assert found.full.kl_k3 is not None
    assert (found.full.mean_gap < AGREES, found.full.kl_k3 < AGREES**2) == (True, True)
    assert (found.full.outside, found.full.impossible) == (0, 0)
    assert found.full.effective_sample == pytest.approx(1, abs=1e-6)
    assert found.sequences.effective_sample == pytest.approx(1, abs=1e-4)
    assert found.full.mean_ratio == pytest.approx(1, abs=1e-5)
    assert (found.temperatures.best, found.temperatures.stated) == (0.7, 0.7)
    assert [place.first for place in found.positions] == [0, 1, 8]
    assert sum(place.tokens for place in found.positions) == sum(arm.tokens for arm in found.arms) == found.full.tokens
    worst = found.worst[0]
    assert worst.text
    assert worst.rollout_id.startswith(healthy.run_id)
    assert found.notes == ()


def test_a_wrong_temperature_is_told_by_the_one_that_fits(healthy: RunPaths, tmp_path: Path) -> None:
    found = measure(copied(healthy, tmp_path, temperature=pl.lit(1.0)))
    fit = found.temperatures
    assert (fit.stated, fit.best, fit.gap_at_best < AGREES, fit.gap_at_stated > DIFFERS) == (1.0, 0.7, True, True)
    assert (found.same_weights, other_prompts(found)) == (True, 0)
    assert found.full.kl_k3 is not None
    assert found.full.kl_k3 > AGREES**2
    assert found.notes == ("config.json says temperature 0.7, and the rollouts 1.0: theirs was used.",)


def test_a_wrong_chat_template_is_told_by_the_prompts(healthy: RunPaths, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(DEMO_MODEL)
    prompts = pl.read_parquet(healthy.rollouts(0))["prompt"].to_list()
    plain = [tokenizer.encode([{"role": TEXT, "content": messages[-1]["content"]}]) for messages in prompts]
    found = measure(copied(healthy, tmp_path, prompt_ids=pl.Series(plain, dtype=pl.List(pl.Int32))))
    assert (other_prompts(found), found.same_weights) == (40, True)
    assert found.temperatures.gap_at_best > DIFFERS
    assert found.full.outside > 0.01
    assert found.full.effective_sample < 0.99


def test_a_wrong_checkpoint_is_told_by_what_is_left(healthy: RunPaths, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", step=4)
    found = measure(healthy, str(checkpoint))
    assert (found.same_weights, other_prompts(found), found.model) == (False, 0, str(checkpoint))
    assert found.temperatures.gap_at_best > DIFFERS
    assert "Weights: other weights than the run's." in found.evidence


def test_a_truncated_run_is_biased_by_its_truncation_alone(runs_dir: Path) -> None:
    found = measure(generate(runs_dir, temperature=1.0, top_p=0.8))
    assert found.truncated is not None
    assert found.truncated.mean_gap is not None
    assert found.truncated.mean_gap < AGREES
    assert found.truncated.impossible == 0
    # every token was likelier where the others were cut off
    assert found.full.kl_k1 is not None
    assert found.full.kl_k1 > DIFFERS
    assert found.full.mean_ratio < 1 - DIFFERS
    assert (found.temperatures.best, other_prompts(found)) == (1.0, 0)
    assert "of what top_p 0.8 leaves" in found.compared


def test_a_greedy_run_is_compared_at_temperature_1(healthy: RunPaths, tmp_path: Path) -> None:
    found = measure(copied(healthy, tmp_path, temperature=pl.lit(0.0), top_p=pl.lit(0.8)))
    assert found.compared.startswith("greedy run: the engine's logprobs are of the whole softmax at temperature 1")
    assert (found.temperatures.stated, found.truncated) == (1.0, None)


def test_a_stored_sampling_mask_is_used(healthy: RunPaths, tmp_path: Path) -> None:
    only = pl.col("completion_ids").list.eval(pl.concat_list(pl.element()))
    found = measure(copied(healthy, tmp_path, sampling_mask=only))
    assert [token.trainer_logprob for token in found.worst] == [0] * len(found.worst), "nothing else could be sampled"
    assert found.full.mean_gap is not None
    assert found.full.mean_gap < AGREES


def test_the_run_shows_its_newest_mismatch(healthy: RunPaths, tmp_path: Path, tell: Tell) -> None:
    run = copied(healthy, tmp_path)
    publish_mismatch(measure(run), run.root)
    told = tell("mismatch", run.root, "--sample", "12", "--seed", "3")
    assert told.code == 0, told.stderr
    newest = read_mismatch(run.root)
    assert newest is not None
    assert newest.verdict in told.stdout
    assert all(sentence in told.stdout for sentence in newest.evidence)
    assert (newest.rollouts, newest.seed) == (12, 3)
    assert "mismatch.json" in {file.path for file in write_manifest(run.root).files}

    for make in shown_again:
        make(run)
        report = read_report(run.root)
        assert report is not None
        assert report.mismatch is not None
        assert (report.mismatch.verdict, report.mismatch.kl_k3) == (newest.verdict, newest.full.kl_k3)
        assert newest.verdict in run.report_html.read_text()
    assert verify_run(run.root).ok


shown_again: list[Callable[[RunPaths], object]] = [
    lambda run: None,
    lambda run: harvest_here("report", run.root),
    lambda run: summarize_run(run.root),
]
"""Whatever makes the report again."""
