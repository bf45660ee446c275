import json
import math
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.records import SCORE_SCHEMA
from tasks.scoring.gsm8k_scorer import GSM8K_NAME, GSM8K_VERSION, gold_number, score_gsm8k
from tasks.scoring.score_shard import score_frame, score_shard
from tasks.scoring.scorers import load_scorer
from tests.support.shared_data import gsm8k_rows
from tests.support.synthetic import publish_shard

CASES = [
    json.loads(line) for line in (Path(__file__).parents[2] / "data" / "scoring_cases.jsonl").read_text().splitlines()
]


def frame(texts: list[str], golds: list[str], reasons: list[str | None] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "rollout_id": [f"r{index}" for index in range(len(texts))],
            "completion": texts,
            "ground_truth": golds,
            "finish_reason": reasons or ["stop"] * len(texts),
        },
        schema_overrides={"completion": pl.String, "finish_reason": pl.String},
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["why"])
def test_case(case: dict[str, str]) -> None:
    score = score_gsm8k(case["text"], case["gold"], case.get("finish_reason", "stop"))
    assert (score.extracted_answer, score.reward) == (case["extracted"], case["reward"])


def test_cases_score_the_same_as_a_shard() -> None:
    scores = score_frame(
        frame(
            [case["text"] for case in CASES],
            [case["gold"] for case in CASES],
            [case.get("finish_reason", "stop") for case in CASES],
        )
    )
    assert scores.select("extracted_answer", "reward").rows() == [(case["extracted"], case["reward"]) for case in CASES]


@pytest.mark.parametrize(
    ("text", "reason", "method"),
    [
        ("#### 18", "stop", "hash"),
        ("#### 18", None, "hash"),
        ("\\boxed{18}", "stop", "boxed"),
        ("#### 36/2", "stop", "ambiguous"),
        ("nothing", "stop", "none"),
        ("nothing", "length", "truncated"),
        ("#### 18", "length", "truncated"),
        ("#### 18", "abort", "truncated"),
        ("#### 36/2\nDone", "length", "ambiguous"),
    ],
)
def test_extraction_method(text: str, reason: str | None, method: str) -> None:
    assert score_gsm8k(text, "18", reason).method == method


@pytest.mark.parametrize(
    ("text", "flexible"),
    [
        ("A: 18", True),
        ("The answer is not 18", True),
        ("18 of them, $1,018.00", False),
        ("it costs $18.00.", True),
        ("18<|im_end|>5", True),
        ("<think>18</think> none", False),
        ("no number", False),
    ],
)
def test_flexible_reads_the_last_number_and_never_rewards(text: str, flexible: bool) -> None:
    score = score_gsm8k(text, "18")
    assert score.correct_flexible is flexible
    assert score.reward == 0


FORMS = {
    "plain": "#### {n}",
    "currency": "#### ${n}",
    "full stop": "#### {n}.",
    "decimal": "#### {n}.0",
    "boxed": "\\boxed{{{n}}}",
    "thousands": "#### {grouped}",
    "boxed LaTeX thousands": "so $\\boxed{{{latex}}}$.",
    "chatter": "#### {n}\n\nI hope this helps! There are 7 days in a week.",
    "chatter on the line": "#### {n} is what she makes each day.",
    "unit": "#### {n} dollars",
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gsm8k_gold_scores_1_against_itself(split: str) -> None:
    answers = [row["answer"] for row in gsm8k_rows(split)]  # type: ignore[arg-type]
    golds = [answer.rsplit("####", 1)[1].strip() for answer in answers]
    scores = score_frame(frame(answers, golds))
    assert scores["reward"].to_list() == [1.0] * len(golds)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_gsm8k_gold_scores_1_in_each_form(form: str) -> None:
    golds = [row["answer"].rsplit("####", 1)[1].strip() for split in ("train", "test") for row in gsm8k_rows(split)]
    texts = []
    for gold in golds:
        number = int(gold.replace(",", ""))
        grouped = f"{number:,}"
        texts.append("9*2=18\n" + form.format(n=number, grouped=grouped, latex=grouped.replace(",", "{,}")))
    scores = score_frame(frame(texts, golds))
    wrong = [pair for pair, reward in zip(zip(texts, golds, strict=True), scores["reward"], strict=True) if reward != 1]
    assert wrong == []
    sample = range(0, len(texts), 97)
    assert all(score_gsm8k(texts[index], golds[index]).reward == 1 for index in sample)


def test_a_wrong_gsm8k_answer_is_not_rewarded() -> None:
    golds = [row["answer"].rsplit("####", 1)[1].strip() for row in gsm8k_rows("test")]
    texts = [f"#### {int(gold.replace(',', '')) + 1}" for gold in golds]
    assert score_frame(frame(texts, golds))["reward"].sum() == 0


@pytest.mark.parametrize(
    ("truth", "number"),
    [
        ("18", "18"),
        ("1,234", "1234"),
        ("$18", "18"),
        ("18.0", "18"),
        ("9*2=18\n#### 18", "18"),
        ("x", None),
        ("", None),
    ],
)
def test_gold_number(truth: str, number: str | None) -> None:
    assert gold_number(truth) == number


def test_an_unparseable_gold_has_no_reward_and_other_rows_keep_theirs() -> None:
    assert math.isnan(score_gsm8k("#### 18", "eighteen").reward)
    scores = score_frame(frame(["#### 18", "#### 18"], ["eighteen", "18"]))
    assert scores.select("reward", "extraction_method").rows() == [(None, "gold_unparseable"), (1.0, "hash")]


def test_error_rows_keep_their_place_and_have_no_reward() -> None:
    rows = frame(["#### 18", "", "#### 5"], ["18", "18", "18"]).with_columns(
        completion=pl.Series(["#### 18", None, "#### 5"]), error=pl.Series([None, "EngineCrashed: gone", None])
    )
    scores = score_frame(rows)
    assert scores.schema == SCORE_SCHEMA
    assert scores.select("rollout_id", "reward", "extraction_method", "correct_flexible").rows() == [
        ("r0", 1.0, "hash", True),
        ("r1", None, "error", False),
        ("r2", 0.0, "hash", False),
    ]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_shard_without_scorable_rows(rows: int) -> None:
    empty = frame(["x"], ["18"]).with_columns(error=pl.lit("failed")).head(rows)
    scores = score_frame(empty)
    assert scores.schema == SCORE_SCHEMA
    assert scores.height == rows


def test_score_shard_publishes_scores_with_the_scorer_and_the_suspects(tmp_path: Path) -> None:
    suspect = (
        "Robert and Teddy are planning to buy snacks for their friends.  Robert orders five boxes of pizza at $10 each "
        "box and ten cans of soft drinks at $2 each. Teddy buys six hamburgers at $3 each and an additional ten cans "
        "of soft drinks. How much do they spend in all?"
    )
    rollouts = frame(["#### 108", "#### 18"], ["106", "18"]).with_columns(
        example_id=pl.Series(["a", "b"]), error=pl.lit(None, pl.String)
    )
    publish_shard(rollouts, tmp_path / "rollouts" / "shard-00000.parquet")
    questions = pl.DataFrame({"example_id": ["a", "b"], "question": [suspect, "What is 9 * 2?"]})
    publish_shard(questions, tmp_path / "questions" / "shard-00000.parquet")
    path = tmp_path / "scores" / "shard-00000.parquet"
    scores = score_shard(tmp_path / "rollouts" / path.name, path)
    assert pl.read_parquet(path).equals(scores)
    assert scores.schema == SCORE_SCHEMA
    assert scores["gold_suspect"].to_list() == [True, False]
    assert set(scores.select("scorer", "scorer_version").rows()) == {(GSM8K_NAME, GSM8K_VERSION)}


@pytest.mark.parametrize("name", ["gsm9k", "", "math-verify", "exact_match"])
def test_an_unknown_scorer_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=r"give gsm8k, math.* or path/to/file\.py:function"):
        load_scorer(name)
