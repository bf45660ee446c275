import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.scoring.custom_scorer import FAILED, CustomScorer
from tasks.scoring.score import Score
from tasks.scoring.score_shard import score_frame
from tasks.scoring.scorers import load_scorer

ROWS = pl.DataFrame(
    {
        "rollout_id": ["a", "b"],
        "completion": ["it is 18", "five"],
        "ground_truth": ["18", "18"],
        "finish_reason": "stop",
    }
)


class Index:
    def __index__(self) -> int:
        return 1


def scored_with(function: Callable[..., Any]) -> pl.DataFrame:
    return score_frame(ROWS, CustomScorer(name="my:score", version="1", function=function))


def test_a_function_that_returns_scores() -> None:
    scorer = load_scorer("tests.support.custom_scorers:last_word")
    scores = score_frame(ROWS, scorer)
    assert scores.select("reward", "extracted_answer", "extraction_method").rows() == [
        (1.0, "18", "last_word"),
        (0.0, "five", "last_word"),
    ]
    assert set(scores.select("scorer", "scorer_version").rows()) == {("tests.support.custom_scorers:last_word", "7")}


def test_a_function_that_returns_rewards() -> None:
    scores = score_frame(ROWS, load_scorer("tests.support.custom_scorers:length"))
    assert scores["reward"].to_list() == pytest.approx([0.8, 0.4])


def test_the_version_is_the_source_hash_when_none_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a scorer in the working directory is found
    source = "def exact(completion, ground_truth, finish_reason):\n    return float(completion == ground_truth)\n"
    Path("one_scorer.py").write_text(source)
    Path("same_scorer.py").write_text(source)
    Path("other_scorer.py").write_text(source + "# changed\n")
    versions = [load_scorer(f"{name}_scorer:exact").version for name in ("one", "same", "other")]
    assert len(versions[0]) == 12
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.module:score", "'no_such_package.module' cannot be imported"),
        ("tests.support.custom_scorers:absent", "'absent' does not exist"),
        ("tests.support.custom_scorers:CONSTANT", "'CONSTANT' is not callable"),
        ("tests.support.custom_scorers:two_parameters", "cannot be called with"),
        ("tests.support.custom_scorers:", "is not a path"),
        (":length", "is not a path"),
    ],
)
def test_a_bad_path_says_what_is_wrong(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_scorer(path)


BROKEN = {
    "at import": "import sys\nsys.exit()\n",
    "at import, without a text": (
        "class Silent(BaseException):\n    def __str__(self):\n        raise ValueError\nraise Silent()\n"
    ),
    "at lookup": "import sys\ndef __getattr__(name):\n    sys.exit(0)\n",
    "at its signature": (
        "class Score:\n    @property\n    def __signature__(self):\n        raise SystemExit(3)\n"
        "    def __call__(self, *arguments):\n        return 1\nscore = Score()\n"
    ),
    "at its version": (
        "class Version:\n    def __str__(self):\n        raise SystemExit(3)\n"
        "SCORER_VERSION = Version()\ndef score(*arguments):\n    return 1\n"
    ),
    "at a call": "import sys\ndef score(*arguments):\n    sys.exit(3)\n",
    "at import, by the end of the process": "import os\nos._exit(0)\n",
    "at a call, by the end of the process": "import os\ndef score(*arguments):\n    os._exit(0)\n",
    "at a call, as an interrupt": "def score(*arguments):\n    raise KeyboardInterrupt\n",
    "at a call, as an error of ours": (
        "from tasks.errors import NotEquivalent\ndef score(*arguments):\n    raise NotEquivalent('no')\n"
    ),
    "at a call, by recursion": "def score(*arguments):\n    return score(*arguments)\n",
    "by its result": (
        "class Odd(float):\n    def __float__(self):\n        raise SystemExit(3)\n"
        "def score(*arguments):\n    return Odd(1)\n"
    ),
    "by its result's text": (
        "class Odd:\n    def __repr__(self):\n        raise SystemExit(3)\ndef score(*arguments):\n    return Odd()\n"
    ),
    "by half a surrogate": (
        "from tasks.scoring.score import Score\ndef score(*arguments):\n"
        "    return Score(reward=1.0, extracted_answer='\\ud800', method='x', correct_flexible=False)\n"
    ),
    "by half a surrogate in its version": "SCORER_VERSION = '\\ud800'\ndef score(*arguments):\n    return 1\n",
    "by a number too large for a file": "def score(*arguments):\n    return 1e300\n",
    "by an endless number": "def score(*arguments):\n    return 10 ** 400\n",
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_a_scorer_that_ends_is_an_error_that_names_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    # a module is imported once per process, so each case has a name of its own
    module = f"broken_{list(BROKEN).index(request.node.callspec.id)}"
    Path(f"{module}.py").write_text(source)
    with pytest.raises(ConfigError, match=f"scorer '{module}:score'"):
        score_frame(ROWS, load_scorer(f"{module}:score"))


NUMBERS = {
    "a bool": True,
    "a NumPy bool": np.bool_(True),
    "a NumPy integer": np.int64(1),
    "a NumPy float": np.float32(1),
    "a long double": np.longdouble(1),
    "an array without dimensions": np.array(1.0),
    "a fraction": Fraction(1),
    "a decimal": Decimal(1),
    "an index": Index(),
}


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("in_score", [False, True])
def test_every_real_number_is_a_reward(value: Any, in_score: bool) -> None:
    result = Score(reward=value, extracted_answer=None, method="m", correct_flexible=True) if in_score else value
    scores = scored_with(lambda *texts: result)
    assert scores["reward"].to_list() == [1.0, 1.0]
    assert scores["correct_flexible"].to_list() == [True, True]


def test_a_tensor_without_dimensions_is_a_reward() -> None:
    import torch  # it takes seconds, and every process of the suite imports this file

    for value in (torch.tensor(1.0), torch.tensor(True)):
        assert scored_with(lambda *texts, value=value: value)["reward"].to_list() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="returned tensor"):
        scored_with(lambda *texts: torch.ones(1))


def raising(error: BaseException) -> Callable[..., float]:
    def score(*texts: object) -> float:
        raise error

    return score


FAILURES: dict[str, tuple[Callable[..., Any], str]] = {
    "a text": (lambda *texts: "1.0", "returned '1.0'"),
    "nothing": (lambda *texts: None, "returned None"),
    "a complex number": (lambda *texts: np.complex64(1), "returned np.complex64"),
    "an array": (lambda *texts: np.ones(1), "returned array"),
    "a text in an array": (lambda *texts: np.array("1.0"), "returned array"),
    "infinity": (lambda *texts: math.inf, "returned inf"),
    "too large an integer": (lambda *texts: 10**400, "OverflowError"),
    "too large a float": (lambda *texts: 1e300, "OverflowError"),
    "an error": (raising(KeyError("missing")), "KeyError: 'missing'"),
    "an exit": (raising(SystemExit(3)), "SystemExit: 3"),
    "an interrupt of its own": (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
    "the end of a generator": (raising(GeneratorExit()), "GeneratorExit"),
    "an error that cannot be written": (raising(ValueError("\ud800\x1b")), "ValueError"),
}


@pytest.mark.parametrize(("function", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_failure_costs_the_reward_of_its_row_alone(
    function: Callable[..., Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    scores = scored_with(lambda completion, *more: function(completion, *more) if completion == "five" else 0.5)
    assert scores["reward"].to_list() == [0.5, None]
    method = scores["extraction_method"][1]
    assert method.startswith(FAILED)
    assert reason in method
    [record] = caplog.records
    assert "1 of 2 rollouts of a shard have no reward" in record.message
    assert "completion 'five'" in record.message

    with pytest.raises(ConfigError, match="so on all 2 rollouts of a shard"):
        scored_with(function)


def test_not_a_number_is_no_reward_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    scores = scored_with(lambda *texts: np.float32("nan"))
    assert scores.select("reward", "extraction_method").rows() == [(None, "custom")] * 2
    assert not caplog.records


@pytest.mark.parametrize("path", ["..:score", "a..b:score", "builtins:nothing", "operator:length_hint", "tests:score"])
def test_an_odd_path_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(ConfigError, match=f"scorer '{path}'"):
        load_scorer(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("failing", "KeyError"), ("text", "returned 'right'"), ("infinite", "returned Score.reward=inf")],
)
def test_a_failing_scorer_is_named_in_the_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        score_frame(ROWS, load_scorer(f"tests.support.custom_scorers:{name}"))
