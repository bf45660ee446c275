import numpy as np
import pytest

from tasks.comparison.near_tie import Choice, classify, default_limit

TOP = {1: -0.5, 2: -1.5, 3: -3.0}


def choice(token: int, logprob: float, top: dict[int, float]) -> Choice:
    return Choice(
        np.array([token]),
        np.array([logprob]),
        np.array([list(top) or [-1]]),
        np.array([list(top.values()) or [-np.inf]], dtype=np.float64),
    )


@pytest.mark.parametrize(
    ("baseline", "candidate", "greedy", "kind", "gap"),
    [
        ((1, -0.7, {1: -0.7, 2: -0.71}), (2, -0.7, {2: -0.7, 1: -0.71}), True, "near_tie", 0.02),
        ((1, -0.7, {1: -0.7, 2: -0.71}), (2, -0.5, {2: -0.5, 1: -0.8}), True, "wide", 0.31),
        ((1, -0.1, {1: -0.1, 2: -3.0}), (2, -0.1, {2: -0.1, 1: -3.0}), True, "shifted", 5.8),
        # sampled: the tokens are far apart in both runs, and only the move counts
        ((2, -1.4, {1: -0.5, 2: -1.4}), (1, -0.5, {1: -0.5, 2: -1.5}), False, "near_tie", 0.1),
        ((2, -1.5, {1: -0.5, 2: -1.5}), (1, -0.5, {1: -0.5, 2: -1.4}), False, "redrawn", -0.1),
        ((2, -1.5, {1: -0.5, 2: -1.5}), (1, -0.5, {1: -0.5, 2: -1.5}), False, "near_tie", 0.0),
        # a token outside the other's top-k has at most its last logprob
        ((4, -5.0, TOP), (1, -0.5, TOP), False, "unseen", -2.0),
        ((4, -0.5, {4: -0.5, 2: -2.0}), (1, -0.5, TOP), False, "shifted", 4.0),
        ((1, -0.5, TOP), (-1, np.nan, {}), False, "cut", None),
        ((1, -0.5, TOP), (2, -1.5, {}), False, "no_top_logprobs", None),
        ((1, -0.5, {}), (2, -1.5, {}), False, "no_top_logprobs", None),
        # contradictions: another logprob than the listed one, too likely to be unlisted, greedy but not the largest
        ((1, -0.9, TOP), (2, -1.5, TOP), False, "inconsistent", None),
        ((9, -0.5, TOP), (2, -1.5, TOP), False, "inconsistent", None),
        ((2, -1.5, TOP), (1, -0.5, TOP), True, "inconsistent", None),
        # the contested tokens agree, but another listed token does not
        ((1, -0.7, {1: -0.7, 2: -0.71, 3: -2.0}), (2, -0.7, {2: -0.7, 1: -0.71, 3: -5.0}), True, "shifted", 0.02),
        # a token that top-p removed is not listed
        ((1, -0.7, {1: -0.7, 2: -np.inf}), (2, -0.8, {2: -0.8, 1: -0.7}), False, "unseen", -0.1),
    ],
)
def test_classification_of_divergences(
    baseline: tuple[int, float, dict[int, float]],
    candidate: tuple[int, float, dict[int, float]],
    greedy: bool,
    kind: str,
    gap: float | None,
) -> None:
    verdicts = classify(
        choice(*baseline),
        choice(*candidate),
        greedy=np.array([greedy]),
        limit=np.array([0.25]),
        real_limit=np.array([1.0]),
    )
    assert verdicts.kind[0] == kind
    if gap is not None:
        assert verdicts.gap[0] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("dtypes", "limit"),
    [
        ({"bfloat16"}, 0.5),
        ({"torch.float16"}, 0.0625),
        ({"float32"}, 1e-3),
        ({"float32", "bfloat16"}, 0.5),
        ({"auto"}, 0.5),
    ],
)
def test_the_coarsest_dtype_sets_the_default_limit(dtypes: set[str], limit: float) -> None:
    assert default_limit(dtypes) == limit
