from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError
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
