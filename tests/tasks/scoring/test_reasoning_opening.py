"""Reasoning that the prompt's template began is scored as reasoning that the completion begins."""

import json
from pathlib import Path

import polars as pl
import pytest

from tasks.scoring.answer_text import answer_text
from tasks.scoring.reasoning_opening import closing_tag, opened_reasoning
from tasks.scoring.score_shard import score_shard
from tasks.storage.published import record_published
from tests.support.synthetic import publish_shard

QUESTION = "What is 9 times 2?"
OPENING = {"ids": [7, 8], "text": "<think>\n"}


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        (f"{QUESTION}\nassistant\n", ""),
        (f"{QUESTION}\nassistant\n<think>\n", "<think>\n"),
        (f"{QUESTION}\nassistant\n<think>Well, ", "<think>Well, "),
        (f"{QUESTION}\nassistant\n<think>\n\n</think>\n\n", ""),
        (f"{QUESTION}\nassistant\n<think>\n</think><reasoning>", "<reasoning>"),
        (f"Begin with <think>. {QUESTION}\nassistant\n", ""),
        (f"{QUESTION} <think> {QUESTION}\nassistant\n<THINK>", "<THINK>"),
        ("another text than the question <think> \n", "<think> \n"),
        ("another text than the question, with <think> in it", ""),
        ("", ""),
    ],
)
def test_only_what_the_template_wrote_opens_reasoning(prompt: str, opened: str) -> None:
    assert opened_reasoning(prompt, f" {QUESTION}\n") == opened


@pytest.mark.parametrize("question", ["", " ", "t", "think", "<think>"])
def test_a_question_within_the_tag_hides_no_tag(question: str) -> None:
    assert opened_reasoning(f"user {question} assistant <think>\n", question) == "<think>\n"


@pytest.mark.parametrize(
    ("opened", "closing"),
    [
        ("<think>\n", "</think>"),
        ("<Reasoning>Well", "</Reasoning>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|begin_of_thought|>\n", "<|end_of_thought|>"),
    ],
)
def test_every_tag_has_one_that_closes_it(opened: str, closing: str) -> None:
    assert closing_tag(opened) == closing
    assert answer_text(f"{opened} #### 1 {closing} #### 2").text.strip() == "#### 2"


@pytest.mark.parametrize("scorer", ["gsm8k", "math"])
@pytest.mark.parametrize(
    ("completion", "reason", "reward", "method"),
    [
        ("9 * 2 = \\boxed{18} but let me check", "length", 0, "truncated"),
        ("so it is\n#### 18\n", "length", 0, "truncated"),
        ("9 * 2 = \\boxed{18}.", "stop", 0, "none"),
        ("9 * 2 = 18</think>\n#### 18\n", "stop", 1, ""),
        ("9 * 2 = 17</think>\n#### 18\n", "length", 1, ""),
        ("#### 18\n</think>\n#### 17\n", "stop", 0, ""),
        ("<think>\n9 * 2 = 18</think>\n#### 18\n", "stop", 1, ""),
        ("9 * 2 = 18</think>\n#### 18\n<think>#### 17\n", "stop", 1, ""),
    ],
)
def test_reasoning_of_the_prompt_is_not_the_answer(
    scorer: str, completion: str, reason: str, reward: int, method: str, tmp_path: Path
) -> None:
    opened, not_opened, written = scored(
        [([1, 7, 8], completion), ([7, 8, 1], completion), ([1], f"<think>\n{completion}")], reason, scorer, tmp_path
    )
    assert opened["reward"] == reward
    assert not method or opened["extraction_method"] == method
    assert {**opened, "rollout_id": "2"} == written
    assert (not_opened["reward"] == 1) == (reward == 1 or "18" in completion.split("</think>")[-1])


def scored(rows: list[tuple[list[int], str]], reason: str, scorer: str, run_dir: Path) -> list[dict[str, object]]:
    frame = pl.DataFrame(
        {
            "rollout_id": [str(number) for number in range(len(rows))],
            "example_id": "e",
            "prompt_ids": [ids for ids, _ in rows],
            "completion": [text for _, text in rows],
            "ground_truth": "18",
            "finish_reason": reason,
            "error": None,
        },
        schema_overrides={"prompt_ids": pl.List(pl.Int32), "error": pl.String},
    )
    path = run_dir / "rollouts" / "shard-00000.parquet"
    path.parent.mkdir()
    publish_shard(frame, path)
    (run_dir / "prompts.json").write_text(json.dumps({"openings": [OPENING], "problems": []}))
    record_published(run_dir / "prompts.json")
    return score_shard(path, run_dir / "scores" / path.name, scorer).to_dicts()
