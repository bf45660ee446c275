import json
from pathlib import Path

import polars as pl
import pytest

from tasks.comparison.baseline import (
    check_baseline,
    find_baseline,
    generate_baseline_sample,
    obtain_baseline,
    sample_questions,
)
from tasks.comparison.equivalence import compare_runs
from tasks.comparison.noise_floor import NoiseFloor, find_noise_floor, save_noise_floor
from tasks.comparison.tost import minimum_questions
from tasks.comparison.verdict import DEFAULT_EPSILON
from tasks.errors import ConfigError
from tasks.files import publish_json
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.scoring.gsm8k_scorer import GSM8K_NAME, GSM8K_VERSION
from tasks.storage.upload import upload_run
from tests.support.fake_profile import write_fake_profile
from tests.support.s3_servers import Bucket
from tests.support.synthetic import publish_shard, write_run
from tests.support.toy_model import write_toy_run

QUESTIONS = pl.DataFrame({"example_id": [f"q{number}" for number in range(500)]})


def test_a_sample_is_seeded_ordered_and_nested() -> None:
    small, large = (sample_questions(QUESTIONS, count, seed=0)["example_id"].to_list() for count in (64, 149))
    assert (len(small), len(large)) == (64, 149)
    assert set(small) < set(large)
    assert large == [name for name in QUESTIONS["example_id"] if name in set(large)]
    assert small != sample_questions(QUESTIONS, 64, seed=1)["example_id"].to_list()


def test_a_small_dataset_is_used_whole() -> None:
    assert sample_questions(QUESTIONS.head(10), 149, seed=0).equals(QUESTIONS.head(10))


def test_auto_needs_a_profile_that_names_its_baseline(tmp_path: Path) -> None:
    plan = plan_run(config_from_parameters({"profile": "cpu-demo-baseline", "questions": 4}), tmp_path)
    with pytest.raises(ConfigError, match="cpu-demo-baseline names no baseline"):
        check_baseline("auto", plan)


def planned(tmp_path: Path, **parameters: object) -> RunPlan:
    return plan_run(config_from_parameters({"questions": 4, **parameters}), tmp_path / "runs")


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        pytest.param({}, None, id="the same"),
        pytest.param({"question_batch_size": 1, "questions": 3}, None, id="what a comparison tests"),
        pytest.param({"temperature": 0.9}, r"sampling\.temperature: 0\.7 in the baseline, 0\.9 in", id="sampling"),
        pytest.param({"seed": 1}, "seed: 0 in the baseline, 1 in", id="seed"),
        pytest.param({"scorer": "math"}, "was scored by gsm8k .* by math", id="scorer"),
    ],
)
def test_an_incomparable_baseline_is_refused_before_generation(
    tmp_path: Path, changed: dict[str, object], refusal: str | None
) -> None:
    made = write_run(tmp_path / "runs" / "made")
    publish_json({"run_id": "made", "comparable": planned(tmp_path).comparable}, made.config)
    for path in (made.root / "scores").iterdir():
        scorer = {"scorer": pl.lit(GSM8K_NAME), "scorer_version": pl.lit(GSM8K_VERSION)}
        publish_shard(pl.read_parquet(path).with_columns(**scorer), path)
    plan = planned(tmp_path, **changed)
    if refusal is None:
        check_baseline("made", plan)
        assert obtain_baseline("made", plan) == made.root
        return
    for check in (check_baseline, obtain_baseline):
        with pytest.raises(ConfigError, match=refusal):
            check("made", plan)


@pytest.mark.parametrize(
    ("questions", "rollouts", "refusal"),
    [
        pytest.param(4, 64, None, id="as many"),
        pytest.param(3, 64, None, id="a sample"),
        pytest.param(8, 64, "has 8 questions, and the run .* would have 4", id="more questions"),
        pytest.param(4, 128, "has 64 rollouts, and its config.json states 128", id="lacks rollouts"),
    ],
)
def test_a_baseline_that_would_leave_the_comparison_incomplete_is_refused(
    tmp_path: Path, questions: int, rollouts: int, refusal: str | None
) -> None:
    plan = planned(tmp_path)
    made = write_run(tmp_path / "runs" / "made", with_scores=False)
    config = {"comparable": plan.comparable, "num_questions": questions, "num_rollouts": rollouts}
    publish_json({"run_id": "made", **config}, made.config)
    if refusal is None:
        check_baseline("made", plan)
        return
    with pytest.raises(ConfigError, match=refusal):
        check_baseline("made", plan)


@pytest.mark.slow
def test_a_generated_sample_is_kept_and_stands_for_a_run_of_more_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    profile, dataset = write_fake_profile(Path()), Path("sums.jsonl")
    profile.write_text(f'baseline = "{profile}"\n{profile.read_text()}')
    questions = 2 * minimum_questions(DEFAULT_EPSILON)
    dataset.write_text("\n".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(questions)))
    plan = planned(tmp_path, profile=str(profile), dataset=str(dataset), questions=questions, top_logprobs=None)
    told: list[str] = []
    sample = generate_baseline_sample(plan, told.append)
    generated = (sample / "state" / "timing.json").stat().st_mtime_ns
    assert generate_baseline_sample(plan, told.append) == sample
    assert (sample / "state" / "timing.json").stat().st_mtime_ns == generated
    assert told[0].startswith("generating a baseline sample with profile fake: ")
    assert told[1:] == [f"comparing with the baseline sample {sample}, generated before"]
    whole = reference_plan(plan, "script", tmp_path, name="whole")
    run_reference(whole, "script")
    report = compare_runs(sample, whole.paths.root, require="bitwise")
    assert (report.verdict, report.baseline_is_sample, report.same_dataset) == ("bitwise", True, False)
    assert report.rows.questions_only_in_candidate == questions // 2
    assert 2 * report.rows.baseline == report.rows.candidate == report.rows.candidate_stated


def test_a_baseline_at_a_url_is_downloaded_and_verified_once(tmp_path: Path, bucket: Bucket) -> None:
    made = write_run(tmp_path / "made")
    url = upload_run(made.root, bucket.url).url
    found = find_baseline(url, tmp_path / "runs")
    assert found.parent == tmp_path / "runs" / ".baselines"
    rollouts = [pl.read_parquet(root / "rollouts" / "*.parquet") for root in (found, made.root)]
    assert rollouts[0].equals(rollouts[1])
    kept = found.stat().st_ino
    assert find_baseline(url, tmp_path / "runs") == found
    assert found.stat().st_ino == kept


def test_runs_that_compute_alike_share_a_noise_floor(tmp_path: Path) -> None:
    same, other_order, other_dtype = (
        write_toy_run(tmp_path / name, **settings).root  # type: ignore[arg-type]
        for name, settings in (
            ("same", {}),
            ("order", {"tested": {"question_batch_size": 1}}),
            ("dtype", {"dtype": "float16"}),
        )
    )
    floor = NoiseFloor(
        near_tie_limit=0.1,
        measured=True,
        divergence_rate=0.1,
        flip_rate=0.01,
        divergences=2,
        rollouts=20,
        dtype="bfloat16",
        source_run_ids=("a", "b"),
    )
    assert find_noise_floor(same, tmp_path) is None
    save_noise_floor(floor, same, tmp_path)
    assert find_noise_floor(other_order, tmp_path / "elsewhere", tmp_path) == floor
    assert find_noise_floor(other_dtype, tmp_path) is None
