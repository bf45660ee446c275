import json
from dataclasses import asdict

import polars as pl
import pytest

from tasks.results.metrics import RunMetrics, is_repetitive, run_metrics

SCHEMA = {
    "reward": pl.Float32,
    "extracted_answer": pl.String,
    "is_truncated": pl.Boolean,
    "num_completion_tokens": pl.Int32,
    "is_repetitive": pl.Boolean,
}


def rollouts(rewards: dict[tuple[str, str], list[float | None]]) -> pl.DataFrame:
    """One row per reward of each (example_id, arm_id); a null reward is an error row."""
    rows = [
        {
            "example_id": example_id,
            "arm_id": arm_id,
            "sample_index": sample,
            "reward": reward,
            "extracted_answer": None if reward is None else "right" if reward else f"wrong {sample}",
            "extraction_method": "error" if reward is None else "hash",
            "correct_flexible": reward == 1,
            "is_truncated": None if reward is None else False,
            "num_completion_tokens": None if reward is None else 10,
            "is_repetitive": None if reward is None else False,
            "gold_suspect": example_id == "suspect",
        }
        for (example_id, arm_id), samples in rewards.items()
        for sample, reward in enumerate(samples)
    ]
    return pl.DataFrame(rows, schema_overrides=SCHEMA)


def test_two_arms_four_samples() -> None:
    metrics = run_metrics(
        rollouts(
            {
                ("q1", "a"): [1, 1, 1, 1],
                ("q1", "b"): [1, 0, 0, 1],
                ("q2", "a"): [0, 0, 0, 1],
                ("q2", "b"): [0, 0, None, 0],
            }
        )
    )
    arm_a, arm_b = metrics.arms
    assert (arm_a.arm_id, arm_b.arm_id, metrics.overall.arm_id) == ("a", "b", None)
    assert (arm_b.questions, arm_b.rollouts, arm_b.errors, arm_b.scored) == (2, 8, 1, 7)
    assert arm_a.mean_reward == pytest.approx(5 / 8)
    assert arm_b.mean_reward == pytest.approx(2 / 7)
    assert [(entry.k, entry.groups) for entry in arm_a.pass_at_k] == [(1, 2), (2, 2), (4, 2)]
    # q1 always passes; q2 has 1 of 4 right: 1 - C(3, k) / C(4, k)
    assert [entry.value for entry in arm_a.pass_at_k] == pytest.approx([0.625, 0.75, 1.0])
    # q2's four answers differ, so the right one has a quarter of the tie
    assert arm_a.maj_at_k == pytest.approx((1 + 0.25) / 2)
    assert arm_a.zero_variance_share == 0.5
    assert arm_b.zero_variance_share == 0.5
    assert metrics.overall.mean_reward == pytest.approx(7 / 15)
    (contrast,) = metrics.contrasts
    assert (contrast.arm_id, contrast.other_arm_id, contrast.questions) == ("a", "b", 2)
    assert contrast.mean_difference == pytest.approx((0.5 + 0.25) / 2)


def test_interval_methods_follow_the_samples() -> None:
    single = run_metrics(rollouts({(f"q{index}", "a"): [float(index % 2)] for index in range(20)}))
    assert single.arms[0].mean_reward_interval is not None
    assert single.arms[0].mean_reward_interval.method == "wilson"
    double = run_metrics(rollouts({(f"q{index}", "a"): [1.0, float(index % 2)] for index in range(20)}))
    assert double.arms[0].mean_reward_interval is not None
    assert double.arms[0].mean_reward_interval.method == "cluster_bootstrap"


def test_rates_are_of_what_was_generated() -> None:
    rows = rollouts({("q1", "a"): [1, 0, 0, 0, 0], ("q2", "a"): [None]}).with_columns(
        extraction_method=pl.Series(["hash", "none", "ambiguous", "truncated", "hash", "error"]),
        is_truncated=pl.Series([False, False, False, True, False, None]),
        correct_flexible=pl.Series([True, True, False, False, False, False]),
        num_completion_tokens=pl.Series([10, 10, 10, 100, 10, None]),
        is_repetitive=pl.Series([False, False, False, True, False, None]),
    )
    arm = run_metrics(rows).arms[0]
    assert arm.errors == 1
    assert arm.truncation_rate == pytest.approx(1 / 5)
    assert arm.extraction_failure_rate == pytest.approx(2 / 5)
    assert arm.flexible_accuracy == pytest.approx(2 / 5)
    assert arm.strict_flexible_gap == pytest.approx(1 / 5)
    assert arm.mean_completion_tokens == pytest.approx(28)
    assert arm.mean_completion_tokens_terminated == pytest.approx(10)
    assert arm.repetition_rate == pytest.approx(1 / 5)


def test_the_mean_reward_is_given_without_suspect_golds_too() -> None:
    rows = rollouts({("q1", "a"): [1, 1], ("suspect", "a"): [0, 0], ("q1", "b"): [1, 0]})
    metrics = run_metrics(rows)
    arm_a, arm_b = metrics.arms
    assert (arm_a.mean_reward, arm_a.mean_reward_without_suspects, arm_a.scored) == (0.5, 1.0, 4)
    assert (arm_b.mean_reward, arm_b.mean_reward_without_suspects) == (0.5, None)
    assert (metrics.overall.mean_reward, metrics.overall.mean_reward_without_suspects) == (0.5, 0.75)
    assert run_metrics(rows.drop("gold_suspect")).overall.mean_reward_without_suspects is None


def test_a_run_of_errors_only_has_no_numbers() -> None:
    metrics = run_metrics(rollouts({("q1", "a"): [None], ("q2", "b"): [None]}))
    assert metrics.overall.mean_reward is None
    assert metrics.overall.pass_at_k == ()
    assert metrics.overall.truncation_rate is None
    assert metrics.contrasts == ()


def test_no_rows() -> None:
    metrics = run_metrics(rollouts({("q1", "a"): [1]}).clear())
    assert (metrics.overall.rollouts, metrics.arms) == (0, ())


def test_the_same_seed_gives_the_same_json() -> None:
    rows = rollouts({(f"q{index}", arm): [float(index % 3 > 0), 1.0] for index in range(9) for arm in "ab"})
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)

    def as_json(metrics: RunMetrics) -> str:
        return json.dumps(asdict(metrics), allow_nan=False)

    assert as_json(run_metrics(rows, seed=3)) == as_json(run_metrics(shuffled, seed=3))


def test_repetition_is_optional() -> None:
    rows = rollouts({("q1", "a"): [1, 0]}).drop("is_repetitive")
    assert run_metrics(rows).overall.repetition_rate is None


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("Janet sells 16 - 3 - 4 = 9 eggs. " * 10, True),
        ("She has 9 eggs.\n" + "so " * 200, True),
        ("0" * 500, True),
        ("Different words stand in each of these sentences, and then it ends. " * 3, False),
        ("".join(f"Step {step} gives {step**3}. " for step in range(60)), False),
        ("#### 18", False),
        ("", False),
        ("étape suivante, étape suivante, " * 20, True),
        (None, None),
    ],
)
def test_a_loop_at_the_end_is_flagged(text: str | None, flag: bool | None) -> None:
    frame = pl.DataFrame({"completion": pl.Series([text], dtype=pl.String)})
    assert frame.select(is_repetitive(pl.col("completion"))).item() is flag


FLOATS = [
    # right_at, rewards of the samples, share right
    (1.0, [0.25, 1.0, 0.25, 1.0], 0.5),
    (0.25, [0.25, 1.0, 0.0, 1.0], 0.75),
    # Float32 holds a little less than 0.7
    (0.7, [0.7, 0.7, 0.69, 0.0], 0.5),
    (0.0, [-1.0, 0.0, 1.0, 0.0], 0.75),
    (3.0, [3.0, 2.9, 3.5, 0.0], 0.5),
]


@pytest.mark.parametrize(("right_at", "rewards", "share"), FLOATS)
def test_one_threshold_says_what_is_right(right_at: float, rewards: list[float], share: float) -> None:
    rows = rollouts({("q", "a"): list(rewards)}).with_columns(pl.col("extracted_answer").fill_null("none"))
    metrics = run_metrics(rows.with_columns(extracted_answer=pl.lit("same")), right_at=right_at).overall
    assert metrics.pass_at_1 == share
    assert metrics.maj_at_k == 1
    assert metrics.strict_flexible_gap == pytest.approx(sum(reward == 1 for reward in rewards) / 4 - share)
    assert metrics.mean_reward == pytest.approx(sum(rewards) / 4)
