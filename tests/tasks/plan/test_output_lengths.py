import math
import statistics

import pytest

from tasks.errors import ConfigError
from tasks.plan.output_lengths import OutputLengths, parse_lengths


def test_lengths_follow_the_distribution_and_the_seed() -> None:
    lengths = OutputLengths(median=64, sigma=0.8)
    drawn = [lengths.draw(seed, 100_000) for seed in range(4000)]
    assert drawn == [lengths.draw(seed, 100_000) for seed in range(4000)]
    logs = [math.log(length) for length in drawn]
    assert statistics.median(drawn) == pytest.approx(64, rel=0.06)
    assert statistics.stdev(logs) == pytest.approx(0.8, rel=0.06)


def test_lengths_stay_within_one_and_the_limit() -> None:
    lengths = OutputLengths(median=2, sigma=3.0)
    drawn = {lengths.draw(seed, 16) for seed in range(2000)}
    assert min(drawn) == 1
    assert max(drawn) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lognormal", OutputLengths(median=32)),
        ("lognormal:64", OutputLengths(median=64)),
        ("lognormal:64:0.5", OutputLengths(median=64, sigma=0.5)),
    ],
)
def test_lengths_are_read(text: str, expected: OutputLengths) -> None:
    assert parse_lengths(text, max_tokens=128) == expected


@pytest.mark.parametrize(
    "text", ["", "uniform", "lognormal:", "lognormal:0", "lognormal:x", "lognormal:8:9", "lognormal:1:1:1"]
)
def test_bad_lengths_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="lognormal:64"):
        parse_lengths(text, max_tokens=128)
