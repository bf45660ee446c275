from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL, load_profile
from tasks.node.arithmetic import Arithmetic, find_arithmetic


@pytest.mark.parametrize(
    ("parameters", "peak", "gpus", "share"),
    [
        # 1,000 tokens x 2 x 7e9 in 2 s, of 1e15 FLOP/s
        (7_000_000_000, 1e15, 1, 0.007),
        (7_000_000_000, 1e15, 2, 0.0035),
        (None, 1e15, 1, None),
        (7_000_000_000, None, 1, None),
    ],
)
def test_the_share_is_the_arithmetic_of_the_tokens_over_that_of_the_cards(
    parameters: int | None, peak: float | None, gpus: int, share: float | None
) -> None:
    found = Arithmetic(parameters=parameters, peak_flops=peak).share(1_000, 2.0, gpus)
    assert found == (None if share is None else pytest.approx(share))


def test_a_processor_has_no_peak_here_and_a_missing_model_no_parameters(tmp_path: Path) -> None:
    profile = load_profile("cpu-demo")
    demo = find_arithmetic(profile, DEMO_MODEL)
    assert demo.parameters is not None
    assert demo.peak_flops is None
    assert find_arithmetic(profile, tmp_path) == Arithmetic(parameters=None, peak_flops=None)
