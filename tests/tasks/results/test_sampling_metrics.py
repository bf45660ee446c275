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


def test_groups_with_too_few_samples_sit_out_for_every_k() -> None:
    entries = pass_at_k(frame([[(1.0, "x")] * 2, [(0.0, "y")] * 2, [(1.0, "x")]]))
    assert [(entry.k, entry.groups, entry.value) for entry in entries] == [(1, 2, 0.5), (2, 2, 0.5)]


@pytest.mark.parametrize(
    ("sizes", "ks", "groups"),
    [
        ([4, 1], [1, 2, 4], 1),
        ([8] * 99 + [7], [1, 2, 4, 8], 99),
        ([8, 8, 7, 7, 7, 3], [1, 2, 4, 7], 5),
        ([1, 1, 4], [1], 3),
        ([4, 2, 1], [], 0),
        ([4, 4, 2, 1, 3], [], 0),
        ([], [], 0),
    ],
)
def test_every_k_is_over_the_same_groups_so_that_more_samples_never_pass_less(
    sizes: list[int], ks: list[int], groups: int
) -> None:
    # the small groups are right, so with them pass@1 would be above pass@2
    samples = [[(float(size < max(sizes) or not index), "x") for index in range(size)] for size in sizes]
    entries = pass_at_k(frame(samples))
    assert [entry.k for entry in entries] == ks
    assert {entry.groups for entry in entries} <= {groups}
    assert [entry.value for entry in entries] == sorted(entry.value for entry in entries)


def test_the_majority_is_of_the_same_groups_as_pass_at_k() -> None:
    rows = frame([[(1.0, "x"), (0.0, "y"), (0.0, "y")], [(1.0, "x")] * 3, [(1.0, "x")]])
    assert maj_at_k(rows) == 0.5
    assert [entry.value for entry in pass_at_k(rows)][-1] == 1.0


@pytest.mark.parametrize(
    ("samples", "value"),
    [
        ([(1.0, "18"), (1.0, "18"), (0.0, "5")], 1.0),
        ([(1.0, "18"), (0.0, "5"), (0.0, "5")], 0.0),
        ([(1.0, "18"), (0.0, "5")], 0.5),
        ([(1.0, "18"), (0.0, None), (0.0, None)], 1.0),
        ([(0.0, None), (0.0, None)], None),
        ([(1.0, None), (1.0, None)], None),
    ],
)
def test_the_majority_decides(samples: list[tuple[float, str | None]], value: float | None) -> None:
    assert maj_at_k(frame([samples])) == value


def test_few_full_groups_stand_for_no_others() -> None:
    rows = frame([[(1.0, "x")] * 4, [(0.0, "x")] * 2, [(0.0, "x")]])
    assert (pass_at_k(rows), maj_at_k(rows)) == ((), None)


def test_a_group_without_votes_is_lost() -> None:
    assert maj_at_k(frame([[(1.0, "18")], [(0.0, None)]])) == 0.5


def test_zero_variance_counts_groups_of_two_or_more() -> None:
    assert zero_variance_share(frame([[(1.0, "x")] * 2, [(1.0, "x"), (0.0, "y")], [(1.0, "x")]])) == 0.5
    assert zero_variance_share(frame([[(1.0, "x")]])) is None
