"""What temperature, top_p, top_k and min_p leave of a distribution, by hand and as vLLM's own sampler does it."""

import math

import pytest

from tasks.comparison.sampling_support import Truncation, full_logprobs, masked_logprobs, truncated_logprobs

PROBABILITIES = [0.1, 0.4, 0.2, 0.3]
CUT = -math.inf


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.65}, [1, 3]),
        ({"top_p": 0.75}, [1, 2, 3]),
        ({"top_p": 0.01}, [1]),
        ({"min_p": 0.45}, [1, 2, 3]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 3, "top_p": 0.5}, [1, 3]),  # of the three that are left, 0.4 / 0.9 is below one half
        ({"min_p": 0.6, "top_p": 0.55}, [1]),  # of the two that are left, 0.4 / 0.7 is above it
    ],
)
def test_what_is_left_has_the_whole_probability(settings: dict[str, float], left: list[int]) -> None:
    import torch

    logits = torch.tensor([PROBABILITIES] * 4).log()
    ids = torch.arange(4)[:, None]
    found = truncated_logprobs(logits, ids, [1.0], Truncation.of({"temperature": 1, **settings}))[0].tolist()
    whole = sum(PROBABILITIES[token] for token in left)
    expected = [math.log(value / whole) if token in left else CUT for token, value in enumerate(PROBABILITIES)]
    assert found == pytest.approx(expected, abs=1e-6)
    masked = masked_logprobs(logits, ids, [1.0], [left] * 4)[0].tolist()
    assert masked == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_divides_the_logits(temperature: float) -> None:
    import torch

    logits = torch.tensor([PROBABILITIES]).log()
    powers = [value ** (1 / temperature) for value in PROBABILITIES]
    found = full_logprobs(logits, torch.tensor([[1]]), [1.0, temperature])[:, 0].tolist()
    assert found == pytest.approx([math.log(0.4), math.log(powers[1] / sum(powers))], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "divisor", "truncates", "words"),
    [
        ({"temperature": 0.7}, 0.7, False, ""),
        ({"temperature": 0.7, "top_p": 0.8, "top_k": -1, "min_p": None}, 0.7, True, "top_p 0.8"),
        ({"temperature": 1, "top_k": 20, "min_p": 0.05}, 1, True, "top_k 20, min_p 0.05"),
        ({"temperature": 0, "top_p": 0.8}, 1, False, ""),
    ],
)
def test_settings_of_a_run(settings: dict[str, float], divisor: float, truncates: bool, words: str) -> None:
    found = Truncation.of(settings)
    assert (found.divisor, found.truncates, str(found)) == (divisor, truncates, words)
