import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import tasks.comparison.equivalence
from tasks.comparison.equivalence import compare_runs, validate_run
from tasks.comparison.equivalence_report import EquivalenceReport, read_equivalence
from tasks.comparison.near_tie import REAL_KINDS
from tasks.comparison.noise_floor import NoiseFloor
from tasks.comparison.verdict import Tier
from tasks.errors import ConfigError, NotEquivalent
from tasks.files import publish_json
from tasks.records import RunPaths
from tests.support.synthetic import publish_shard, write_run
from tests.support.toy_model import edit, write_toy_run

FLOOR = NoiseFloor(
    near_tie_limit=2.0,
    measured=True,
    divergence_rate=0.2,
    flip_rate=0.05,
    divergences=20,
    rollouts=100,
    dtype="bfloat16",
    source_run_ids=("first", "second"),
)


def compared(baseline: RunPaths, candidate: RunPaths, **options: object) -> EquivalenceReport:
    return compare_runs(baseline.root, candidate.root, **options)  # type: ignore[arg-type]


def swap_first_rollouts(path: Path, *columns: str) -> None:
    """Exchange ``columns`` between the first and the third rollout of the file; they answer different questions."""
    order = [2, 1, 0, *range(3, pl.read_parquet(path).height)]
    edit(path, *(pl.col(name).gather(order) for name in columns))


def test_equal_tokens_are_bitwise(tmp_path: Path) -> None:
    baseline, candidate = write_toy_run(tmp_path / "a", shards=2), write_toy_run(tmp_path / "b", shards=3)
    report = compared(baseline, candidate)
    assert report.verdict == "bitwise"
    assert (report.tokens.rollouts, report.tokens.identical, report.tokens.logprobs_equal) == (48, 48, 48)
    assert report.examples == ()


def test_equal_tokens_with_different_logprobs_are_bitwise(tmp_path: Path) -> None:
    baseline, candidate = write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b", rounding=1e-6, order=1)
    report = compared(baseline, candidate)
    assert report.verdict == "bitwise"
    assert report.tokens.logprobs_equal < report.tokens.identical == 48
    assert report.tokens.mean_logprob_difference is not None
    assert 0 < report.tokens.mean_logprob_difference < 1e-4


@pytest.mark.parametrize("questions", [1, 2, 30])
def test_a_run_and_itself_are_the_same_in_every_sense(questions: int, tmp_path: Path) -> None:
    run = write_toy_run(tmp_path / "a", questions=questions, shards=1)
    report = compared(run, run)
    assert report.verdict == "bitwise"
    assert [(tier.tier, tier.holds) for tier in report.tiers] == [
        ("bitwise", True),
        ("numerical", True),
        ("statistical", True),
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rounding_is_numerical(tmp_path: Path, temperature: float) -> None:
    options = {"temperature": temperature, "top_k": 40, "questions": 60}
    baseline = write_toy_run(tmp_path / "a", **options)  # type: ignore[arg-type]
    candidate = write_toy_run(tmp_path / "b", rounding=0.02, order=1, **options)  # type: ignore[arg-type]
    report = compared(baseline, candidate)
    assert report.verdict == "numerical"
    assert report.tokens.kinds["near_tie"] == 120 - report.tokens.identical > 2
    assert report.tokens.gap_quantiles["max"] <= min(row.limit or 0.0 for row in report.tokens.worst)
    assert [row.gap for row in report.tokens.worst] == sorted((row.gap for row in report.tokens.worst), reverse=True)
    assert [tier.holds for tier in report.tiers][:2] == [False, True]


def test_tokens_outside_the_stored_top_logprobs_are_inconclusive(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", questions=200, top_k=2)
    candidate = write_toy_run(tmp_path / "b", questions=200, top_k=2, rounding=0.02, order=1)
    report = compared(baseline, candidate)
    assert report.verdict == "inconclusive"
    assert report.tokens.kinds["unseen"] > 0
    assert "outside the stored top logprobs" in report.tiers[1].reason


def swap_everything(run: RunPaths) -> None:
    columns = ("completion", "completion_ids", "logprobs", "top_logprob_ids", "top_logprobs", "finish_reason")
    swap_first_rollouts(run.rollouts(0), *columns)


def swap_tokens(run: RunPaths) -> None:
    swap_first_rollouts(run.rollouts(0), "completion", "completion_ids")


def first_row(column: str, value: pl.Expr) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(column).alias(column)


def change_text(run: RunPaths) -> None:
    edit(run.rollouts(0), first_row("completion", pl.lit("#### 4")))


def change_reward(run: RunPaths) -> None:
    edit(run.scores(0), first_row("reward", 1 - pl.col("reward")))


def change_answer(run: RunPaths) -> None:
    edit(run.scores(0), first_row("extracted_answer", pl.lit("another")))


def change_seed(run: RunPaths) -> None:
    edit(run.rollouts(0), first_row("seed", pl.lit(77, pl.Int64)))


def cut_short(run: RunPaths) -> None:
    shorter = [
        first_row(name, pl.col(name).list.head(1))
        for name in ("completion_ids", "logprobs", "top_logprob_ids", "top_logprobs")
    ]
    edit(run.rollouts(0), *shorter)


@pytest.mark.parametrize(
    ("tamper", "kind", "top_k", "rollouts"),
    [
        (swap_everything, "shifted", 12, 2),
        (swap_tokens, "inconsistent", 12, 2),
        (swap_tokens, "inconsistent", 0, 2),
        (cut_short, "cut", 12, 1),
        (change_text, "text", 12, 1),
        (change_text, "text", 0, 1),
        (change_reward, "reward", 12, 1),
        (change_reward, "reward", 0, 1),
        (change_answer, "reward", 12, 1),
        (change_seed, "settings", 12, 1),
    ],
)
def test_tampering_is_different(
    tmp_path: Path, tamper: Callable[[RunPaths], None], kind: str, top_k: int, rollouts: int
) -> None:
    baseline, candidate = (write_toy_run(tmp_path / name, top_k=top_k) for name in ("a", "b"))
    tamper(candidate)
    report = compared(baseline, candidate)
    assert report.verdict == "different"
    assert report.tokens.kinds == {kind: rollouts}
    assert {row.example_id for row in report.tokens.worst} <= {"q0000000", "q0000001"}
    assert report.examples[0].why.startswith(kind)
    assert not any(tier.holds for tier in report.tiers)


@pytest.mark.parametrize(("stated", "kind"), [(0.7, "shifted"), (1.0, "settings")])
def test_another_temperature_under_a_forged_fingerprint_is_different(tmp_path: Path, stated: float, kind: str) -> None:
    baseline = write_toy_run(tmp_path / "a", temperature=0.7)
    candidate = write_toy_run(tmp_path / "b", temperature=1.0, stated_temperature=stated)
    report = compared(baseline, candidate)
    assert report.verdict == "different"
    assert report.tokens.worst[0].kind == kind
    assert report.reason.startswith(str(report.tokens.kinds[kind]))


def test_other_random_numbers_are_not_numerical(tmp_path: Path) -> None:
    report = compared(write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b", draws=1))
    assert report.verdict == "inconclusive"
    assert not set(report.tokens.kinds) & set(REAL_KINDS)
    assert "other random numbers" in report.tiers[1].reason


def test_rewards_decide_for_another_number_format(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a")
    options = {"rounding": 1.0, "order": 1}
    same = write_toy_run(tmp_path / "b", **options)  # type: ignore[arg-type]
    other = write_toy_run(tmp_path / "c", **options, tested={"quantization": "fp8"})  # type: ignore[arg-type]
    assert compared(baseline, same).verdict == "different"
    report = compared(baseline, other)
    assert report.verdict == "inconclusive"
    assert report.limits.real_limit is None
    assert report.tokens.kinds["wide"] > 0


def test_statistical_without_top_logprobs(tmp_path: Path) -> None:
    options = {"shards": 1, "questions_per_shard": 400, "tokens": 4, "accuracy": 0.98}
    baseline = write_run(tmp_path / "a", **options)  # type: ignore[arg-type]
    candidate = write_run(tmp_path / "b", **options, divergence=1.0, variant=1)  # type: ignore[arg-type]
    report = compared(baseline, candidate)
    assert report.verdict == "statistical"
    assert report.tokens.kinds == {"no_top_logprobs": 3200}
    assert "stores no top logprobs" in report.tiers[1].reason
    low, high = report.rewards.difference.bounds
    assert -0.02 < low < high < 0.02
    assert compared(baseline, candidate, epsilon=0.001).verdict == "inconclusive"


def test_a_worse_candidate_is_different(tmp_path: Path) -> None:
    options = {"shards": 1, "questions_per_shard": 200, "tokens": 4}
    baseline = write_run(tmp_path / "a", **options, accuracy=0.9)  # type: ignore[arg-type]
    candidate = write_run(tmp_path / "b", **options, accuracy=0.7, divergence=1.0, variant=1)  # type: ignore[arg-type]
    report = compared(baseline, candidate)
    assert report.verdict == "different"
    assert "outside +-0.02" in report.reason
    assert len(report.examples) == 10
    assert all(example.baseline_reward != example.candidate_reward for example in report.examples)


def test_too_few_questions_are_inconclusive(tmp_path: Path) -> None:
    options = {"shards": 1, "questions_per_shard": 100, "tokens": 4, "accuracy": 1.0}
    baseline = write_run(tmp_path / "a", **options)  # type: ignore[arg-type]
    candidate = write_run(tmp_path / "b", **options, divergence=1.0, variant=1)  # type: ignore[arg-type]
    report = compared(baseline, candidate)
    assert report.rewards.difference.mean == report.rewards.difference.high == 0.0
    assert report.verdict == "inconclusive"
    assert report.questions_needed == 149
    assert "149 questions would be needed" in report.reason
    assert compared(baseline, candidate, epsilon=0.05).verdict == "statistical"


def test_a_reward_shift_overrides_near_ties(tmp_path: Path) -> None:
    options = {"temperature": 0.0, "questions": 200}
    baseline = write_toy_run(tmp_path / "a", **options)  # type: ignore[arg-type]
    candidate = write_toy_run(tmp_path / "b", **options, rounding=0.05, order=1)  # type: ignore[arg-type]
    assert compared(baseline, candidate).verdict == "numerical"
    for shard in range(2):
        ids = [pl.read_parquet(run.rollouts(shard))["completion_ids"] for run in (baseline, candidate)]
        edit(baseline.scores(shard), pl.lit(1.0, pl.Float32).alias("reward"), pl.lit("x").alias("extracted_answer"))
        answers = pl.lit("x").alias("extracted_answer")
        edit(candidate.scores(shard), (ids[0] == ids[1]).cast(pl.Float32).alias("reward"), answers)
    report = compared(baseline, candidate)
    assert report.verdict == "different"
    assert report.tiers[1].holds
    assert not report.meets("statistical")


def keep(run: RunPaths, condition: pl.Expr, *shards: int) -> None:
    """Keep the rollouts for which ``condition`` holds, in these shards."""
    for shard in shards:
        publish_shard(pl.read_parquet(run.rollouts(shard)).filter(condition), run.rollouts(shard))


def lose_shard(run: RunPaths) -> None:
    run.rollouts(1).unlink()
    run.scores(1).unlink()


def add_rollouts(run: RunPaths) -> None:
    frame = pl.read_parquet(run.rollouts(1))
    renamed = [pl.format("{} again", name).alias(name) for name in ("rollout_id", "example_id")]
    publish_shard(frame.vstack(frame.with_columns(renamed)), run.rollouts(1))


FIRST_ARM = pl.col("arm_id") == pl.col("arm_id").first()
FIRST_QUESTION = pl.col("example_id") == pl.col("example_id").first()
OF_CONFIG = "rollouts, and its config.json states 64"


@pytest.mark.parametrize(
    ("change_baseline", "change_candidate", "why"),
    [
        pytest.param(
            None,
            lambda run: keep(run, pl.int_range(pl.len()) > 0, 0),
            ["the candidate has 63 " + OF_CONFIG, "the candidate lacks 1 of the baseline's 64 rollouts"],
            id="lacks a rollout",
        ),
        pytest.param(
            None, lambda run: keep(run, ~FIRST_QUESTION, 0), ["the candidate lacks 8 of"], id="lacks a question"
        ),
        pytest.param(
            None,
            lose_shard,
            ["the candidate has 32 " + OF_CONFIG, "the candidate lacks 32 of the baseline's 64"],
            id="lacks a shard",
        ),
        pytest.param(None, lambda run: keep(run, ~FIRST_ARM, 0, 1), ["the candidate lacks 8 of"], id="lacks an arm"),
        pytest.param(
            None,
            add_rollouts,
            ["the candidate has 96 " + OF_CONFIG, "the baseline lacks 32 of the candidate's 96"],
            id="has extra rollouts",
        ),
        pytest.param(
            lose_shard,
            None,
            ["the baseline has 32 " + OF_CONFIG, "the baseline lacks 32 of the candidate's 64"],
            id="the baseline lacks a shard",
        ),
        pytest.param(
            lose_shard,
            lose_shard,
            ["the baseline has 32 " + OF_CONFIG, "the candidate has 32 " + OF_CONFIG],
            id="both lack the same shard",
        ),
        pytest.param(
            lambda run: run.scores(1).unlink(),
            lambda run: run.scores(1).unlink(),
            ["the baseline has scores of 32 of its 64 rollouts", "the candidate has scores of 32 of its 64 rollouts"],
            id="both lack the same scores",
        ),
    ],
)
def test_rows_of_one_run_alone_are_incomplete(
    tmp_path: Path,
    change_baseline: Callable[[RunPaths], None] | None,
    change_candidate: Callable[[RunPaths], None] | None,
    why: list[str],
) -> None:
    baseline, candidate = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    for run, change in ((baseline, change_baseline), (candidate, change_candidate)):
        if change:
            change(run)
    report = compared(baseline, candidate)
    assert report.verdict == "incomplete"
    assert [part for part in why if part not in report.reason] == []
    assert not any(tier.holds for tier in report.tiers)


def test_runs_over_other_questions_are_incomplete(tmp_path: Path) -> None:
    small, large = (write_run(tmp_path / f"{shards}", shards=shards) for shards in (1, 2))
    report = compared(large, small)
    assert (report.verdict, report.baseline_is_sample) == ("incomplete", False)
    assert "the candidate lacks 32 of the baseline's 64 rollouts" in report.reason


def test_a_stated_sample_stands_for_its_questions(tmp_path: Path) -> None:
    sample, whole = (write_run(tmp_path / f"{shards}", shards=shards) for shards in (1, 2))
    report = compared(sample, whole, require="bitwise")
    assert (report.verdict, report.baseline_is_sample) == ("bitwise", True)
    assert (report.rows.rows_only_in_candidate, report.rows.rows_of_questions_only_in_candidate) == (32, 32)
    # of the questions of the sample, and of those that it lacks, the candidate must have every rollout
    for shard, why in (
        (0, "the candidate lacks 4 of the baseline's 32"),
        (1, "the candidate has 60 rollouts, and its"),
    ):
        part = write_run(tmp_path / f"without {shard}", shards=2)
        keep(part, ~FIRST_ARM, shard)
        assert compared(sample, part).verdict == "incomplete"
        assert why in compared(sample, part).reason
    keep(sample, ~FIRST_ARM, 0)
    report = compared(sample, whole)
    assert report.verdict == "incomplete"
    assert "the baseline has 28 rollouts, and its config.json states 32" in report.reason
    assert "the baseline lacks 4 of the candidate's 64 rollouts" in report.reason


def test_a_run_that_states_no_number_is_compared_with_the_other_one(tmp_path: Path) -> None:
    baseline, candidate = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    for run in (baseline, candidate):
        config = json.loads(run.config.read_text())
        publish_json({"run_id": run.run_id, "comparable": config["comparable"]}, run.config)
    assert compared(baseline, candidate).verdict == "bitwise"
    lose_shard(candidate)
    assert compared(baseline, candidate).verdict == "incomplete"


def test_lost_rows_are_counted_and_weaken_the_verdict(tmp_path: Path) -> None:
    baseline, candidate = (
        write_run(tmp_path / name, shards=1, questions_per_shard=400, tokens=4, accuracy=1.0) for name in ("a", "b")
    )
    assert compared(baseline, candidate).verdict == "bitwise"
    row = pl.int_range(pl.len())
    edit(candidate.rollouts(0), pl.when(row < 2).then(pl.lit("too long")).alias("error"))
    report = compared(baseline, candidate)
    assert report.verdict == "statistical"
    assert (report.rows.lost, report.rows.failed_only_in_candidate) == (2, 2)
    assert "2 rollouts of shared questions are missing" in report.tiers[0].reason
    edit(candidate.rollouts(0), pl.when(row % 8 == 0).then(pl.lit("too long")).alias("error"))
    report = compared(baseline, candidate)
    assert report.verdict == "inconclusive"
    assert report.rows.lost_share == 1 / 8
    assert report.questions_needed is None


def test_unscored_runs_are_compared_by_tokens_alone(tmp_path: Path) -> None:
    baseline = write_run(tmp_path / "a", with_scores=False)
    same = write_run(tmp_path / "b", with_scores=False)
    other = write_run(tmp_path / "c", with_scores=False, divergence=1.0)
    assert compared(baseline, same).verdict == "bitwise"
    assert compared(write_run(tmp_path / "d"), same).verdict == "incomplete", "one run has scores"
    report = compared(baseline, other)
    assert report.verdict == "inconclusive"
    assert "no rollout has a reward in both runs" in report.reason


def test_runs_without_a_common_success_are_inconclusive(tmp_path: Path) -> None:
    baseline, candidate = (write_run(tmp_path / name, error_rows=1.0) for name in ("a", "b"))
    report = compared(baseline, candidate)
    assert (report.verdict, report.rows.failed_in_both) == ("inconclusive", 64)


def test_a_measured_floor_is_used_and_named(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", temperature=0.0, questions=100)
    candidate = write_toy_run(tmp_path / "b", temperature=0.0, questions=100, rounding=0.2, order=1)
    default, measured = (compared(baseline, candidate, noise_floor=floor) for floor in (None, FLOOR))
    assert (default.verdict, default.limits.source) == ("inconclusive", "default of bfloat16")
    assert measured.verdict == "numerical"
    assert measured.limits.source == "measured between first and second"
    assert measured.limits.floor == FLOOR
    with pytest.raises(ConfigError, match="measured in float32, the runs are in bfloat16"):
        compared(baseline, candidate, noise_floor=replace(FLOOR, dtype="float32"))


def test_a_small_floor_makes_no_rounding_a_real_difference(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", temperature=0.0, questions=100)
    candidate = write_toy_run(tmp_path / "b", temperature=0.0, questions=100, rounding=0.05, order=1)
    report = compared(baseline, candidate, noise_floor=replace(FLOOR, near_tie_limit=0.01))
    assert set(report.tokens.kinds) == {"near_tie", "wide"}
    assert report.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("verdict", "met"),
    [
        ("bitwise", ["bitwise", "numerical", "statistical"]),
        ("numerical", ["numerical", "statistical"]),
        ("statistical", ["statistical"]),
        ("inconclusive", []),
        ("incomplete", []),
        ("different", []),
    ],
)
def test_a_tier_meets_itself_and_weaker_ones(tmp_path: Path, verdict: str, met: list[Tier]) -> None:
    report = replace(compared(write_run(tmp_path / "a"), write_run(tmp_path / "b")), verdict=verdict)
    for tier in ("bitwise", "numerical", "statistical"):
        assert report.meets(tier) == (tier in met)
        if tier in met:
            report.raise_if_below(tier)
        else:
            with pytest.raises(NotEquivalent, match=f"the verdict is {verdict}, {tier} was required"):
                report.raise_if_below(tier)


@pytest.mark.parametrize(("options", "message"), [({"epsilon": 0.0}, "epsilon"), ({"require": "exact"}, "bitwise")])
def test_bad_settings_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    run = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=message):
        compared(run, run, **options)


def test_the_report_is_published_as_json(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "a", questions=2, shards=1)
    candidate = write_toy_run(tmp_path / "b", questions=2, shards=1, temperature=1.5, stated_temperature=0.7)
    report = validate_run(candidate.root, baseline.root, epsilon=0.05, require="numerical", seed=3)
    written = json.loads(candidate.equivalence.read_text(), parse_constant=pytest.fail)
    assert written["verdict"] == report.verdict == "different"
    assert written["meets_required"] is False
    assert (written["required"], written["epsilon"], written["seed"]) == ("numerical", 0.05, 3)
    assert written["tokens"]["worst"][0]["example_id"] == report.tokens.worst[0].example_id
    assert written == report.to_json()
    assert read_equivalence(candidate.root) == report


def test_the_same_comparison_gives_the_same_report(tmp_path: Path) -> None:
    runs = [write_toy_run(tmp_path / str(order), questions=60, rounding=0.1, order=order) for order in (1, 2)]
    assert compared(*runs).to_json() == compared(*runs).to_json()


def test_every_claim_names_a_test_that_exists() -> None:
    claims = tasks.comparison.equivalence.__doc__ or ""
    named = re.findall(r"``(?:(test_\w+\.py)::)?(test_\w+(?:\.py)?)``", claims)
    assert len(named) > 10
    folder = Path(__file__).parent
    for file, name in named:
        if name.endswith(".py"):
            assert (folder / name).exists(), name
        else:
            assert f"def {name}(" in (folder / (file or Path(__file__).name)).read_text(), name
