import math

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.export.advantages import EPSILON, group_advantages


def advantages(groups: list[str], rewards: list[float | None]) -> list[float | None]:
    frame = pl.DataFrame({"group_id": groups, "reward": pl.Series(rewards, dtype=pl.Float32)})
    return group_advantages(frame)["advantage"].to_list()


def test_rewards_are_centred_and_scaled_within_their_group() -> None:
    spread = math.sqrt(1 / 3) + EPSILON  # of 1, 0, 0, divided by n - 1
    assert advantages(["a", "b", "a", "b", "a"], [1, 5, 0, 5, 0]) == pytest.approx(
        [2 / 3 / spread, 0, -1 / 3 / spread, 0, -1 / 3 / spread]
    )


def test_equal_rewards_give_exactly_zero() -> None:
    assert advantages(["a"] * 3, [0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]


def test_a_row_without_reward_has_no_advantage_and_no_part() -> None:
    assert advantages(["a", "a", "a"], [1, None, 1]) == [0.0, None, 0.0]
    assert advantages(["a", "a"], [1, None]) == [0.0, None]
    assert advantages(["a", "a"], [None, None]) == [None, None]


def test_groups_of_one_are_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match="--samples-per-arm 2 or more"):
        advantages(["a", "b", "c"], [1, 0, 1])
    with pytest.raises(ConfigError, match="1 of 2 groups"):
        advantages(["a", "b", "b"], [1, 0, 1])


def test_rows_keep_their_order_and_columns() -> None:
    frame = pl.DataFrame({"group_id": ["b", "a", "b", "a"], "reward": [1.0, 0.0, 0.0, 1.0], "rollout_id": list("wxyz")})
    result = group_advantages(frame)
    assert result["rollout_id"].to_list() == list("wxyz")
    assert [value > 0 for value in result["advantage"]] == [True, False, False, True]


def test_no_rows() -> None:
    assert advantages([], []) == []
