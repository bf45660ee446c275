"""The factor of the limits that guard health."""

import pytest

from tasks.errors import ConfigError
from tasks.time_limits import FACTOR_VARIABLE, time_limit


@pytest.mark.parametrize(("factor", "limit"), [(None, 60), ("", 60), ("1", 60), ("2.5", 150), ("0.5", 30)])
def test_a_limit_is_multiplied_by_the_factor(factor: str | None, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FACTOR_VARIABLE, raising=False)
    if factor is not None:
        monkeypatch.setenv(FACTOR_VARIABLE, factor)
    assert time_limit(60) == limit


@pytest.mark.parametrize("factor", ["0", "-1", "inf", "nan", "three"])
def test_a_wrong_factor_is_refused(factor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FACTOR_VARIABLE, factor)
    with pytest.raises(ConfigError, match=rf"HARVEST_TIME_LIMIT_FACTOR is '{factor}'; it must be a number above 0"):
        time_limit(60)
