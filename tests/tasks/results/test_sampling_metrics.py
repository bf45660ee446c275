import itertools

import polars as pl
import pytest

from tasks.results.sampling_metrics import maj_at_k, pass_at_k, zero_variance_share


def frame(groups: list[list[tuple[float, str | None]]]) -> pl.DataFrame:
    rows = [(f"q{index}", "a", reward, answer) for index, samples in enumerate(groups) for reward, answer in samples]
    schema = {"example_id": pl.String, "arm_id": pl.String, "reward": pl.Float64, "extracted_answer": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_pass_at_k_is_the_mean_over_all_draws_of_k() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    for entry in pass_at_k(frame([[(reward, "x") for reward in rewards]])):
        draws = [max(draw) for draw in itertools.combinations(rewards, entry.k)]
        assert entry.value == pytest.approx(sum(draws) / len(draws))


def test_groups_with_too_few_samples_sit_out() -> None:
    entries = pass_at_k(frame([[(1.0, "x")] * 2, [(0.0, "y")] * 2, [(1.0, "x")]]))
    assert [(entry.k, entry.groups) for entry in entries] == [(1, 3), (2, 2)]
    assert entries[1].value == 0.5


@pytest.mark.parametrize(
    ("samples", "value"),
    [
        ([(1.0, "18"), (1.0, "18"), (0.0, "5")], 1.0),
        ([(1.0, "18"), (0.0, "5"), (0.0, "5")], 0.0),
        ([(1.0, "18"), (0.0, "5")], 0.5),
        ([(1.0, "18"), (0.0, None), (0.0, None)], 1.0),
        ([(0.0, None), (0.0, None)], 0.0),
    ],
)
def test_the_majority_decides(samples: list[tuple[float, str | None]], value: float) -> None:
    assert maj_at_k(frame([samples])) == value


def test_a_group_without_votes_is_lost() -> None:
    assert maj_at_k(frame([[(1.0, "18")], [(0.0, None)]])) == 0.5


def test_zero_variance_counts_groups_of_two_or_more() -> None:
    assert zero_variance_share(frame([[(1.0, "x")] * 2, [(1.0, "x"), (0.0, "y")], [(1.0, "x")]])) == 0.5
    assert zero_variance_share(frame([[(1.0, "x")]])) is None
