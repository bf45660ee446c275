import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tasks.results.arm_contrasts import (
    MAX_DISTINCT,
    ArmContrast,
    contrast_arms,
    holm,
    sign_flip_p,
    significant_contrasts,
)


def test_holm_steps_down_and_keeps_the_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_sign_flip_is_the_exact_test_on_few_questions() -> None:
    differences = np.array([0.5, 0.25, 0.25, -0.25, 1.0])
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=5)]
    exact = float(np.mean([flip >= abs(differences.sum()) - 1e-12 for flip in flips]))
    assert sign_flip_p(differences, seed=0) == pytest.approx(exact, abs=0.02)


def test_sign_flip_reaches_its_normal_limit() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.02, 1.0, MAX_DISTINCT * 2)
    limit = sign_flip_p(differences, seed=0)
    assert limit == pytest.approx(float(stats.ttest_1samp(differences, 0).pvalue), abs=0.01)
    assert sign_flip_p(differences[:MAX_DISTINCT], seed=0) == pytest.approx(
        float(stats.ttest_1samp(differences[:MAX_DISTINCT], 0).pvalue), abs=0.02
    )


def test_no_difference_has_p_1() -> None:
    assert sign_flip_p(np.zeros(5), seed=0) == 1.0


def test_only_common_questions_count() -> None:
    rows = pl.DataFrame(
        {
            "example_id": ["q1", "q1", "q2", "q2", "q3", "q4"],
            "arm_id": ["a", "b", "a", "b", "a", "b"],
            "reward": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
        }
    )
    (contrast,) = contrast_arms(rows, seed=0)
    assert contrast.questions == 2
    assert contrast.mean_difference == 0.5


def test_a_single_question_has_no_interval() -> None:
    rows = pl.DataFrame({"example_id": ["q", "q"], "arm_id": ["a", "b"], "reward": [1.0, 0.0]})
    (contrast,) = contrast_arms(rows, seed=0)
    assert (contrast.low, contrast.high, contrast.p_value) == (None, None, 1.0)


def test_a_real_difference_is_found_among_eight_arms_and_no_other() -> None:
    rng = np.random.default_rng(1)
    difficulty = rng.random(400)
    rows = pl.concat(
        pl.DataFrame(
            {
                "example_id": [f"q{index}" for index in range(400)],
                "arm_id": f"arm{arm}",
                "reward": (rng.random(400) < np.clip(difficulty + 0.3 * (arm == 7), 0, 1)).astype(float),
            }
        )
        for arm in range(8)
    )
    found = {(c.arm_id, c.other_arm_id) for c in contrast_arms(rows, seed=0) if c.p_holm < 0.05}
    assert found == {(f"arm{arm}", "arm7") for arm in range(7)}


def test_significant_contrasts_put_the_better_arm_first() -> None:
    contrast = ArmContrast(
        arm_id="a",
        other_arm_id="b",
        questions=9,
        mean_difference=-0.3,
        low=-0.4,
        high=-0.2,
        p_value=0.01,
        p_holm=0.01,
    )

    (found,) = significant_contrasts([contrast, replace(contrast, p_holm=0.2)])
    assert (found.arm_id, found.other_arm_id, found.mean_difference) == ("b", "a", 0.3)
    assert (found.low, found.high) == (0.2, 0.4)
