"""The demo dataset is deterministic, its splits are disjoint, and its answers follow from their own working."""

import operator
import random
import re
from collections import Counter

import pytest

from profiles.demo.questions import NAMES, OBJECTS, TEMPLATES, Split, draw_problem, generate_questions
from profiles.demo.styles import STYLED_ARMS, completion
from profiles.load import load_arms
from tasks.scoring.gsm8k_scorer import score_gsm8k

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+) \S.*")


def story(question: str) -> str:
    """The question without its names and objects, which do not count for the split."""
    return re.sub("|".join(NAMES + OBJECTS), "_", question)


def test_the_same_seed_gives_the_same_rows() -> None:
    assert generate_questions(50, seed=3) == generate_questions(50, seed=3)


def test_another_seed_gives_other_questions() -> None:
    rows = zip(generate_questions(50, seed=3), generate_questions(50, seed=4), strict=True)
    assert any(one.question != other.question for one, other in rows)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_smaller_count_is_a_prefix_of_a_larger_one(split: Split) -> None:
    assert generate_questions(200, split=split)[:30] == generate_questions(30, split=split)


def test_questions_and_ids_are_distinct() -> None:
    rows = generate_questions(2_000)
    assert len({row.question for row in rows}) == len({row.example_id for row in rows}) == 2_000


def test_splits_share_no_calculation() -> None:
    train = {story(row.question) for row in generate_questions(2_000, split="train")}
    test = {story(row.question) for row in generate_questions(2_000, split="test")}
    assert len(train) > 300
    assert len(test) > 50
    assert train.isdisjoint(test)


def test_answers_follow_from_their_working() -> None:
    for row in generate_questions(2_000):
        *steps, final = row.answer.split("\n")
        known = {int(number) for number in re.findall(r"\d+", row.question)}
        results = []
        for step in steps:
            left, sign, right, result = STEP.fullmatch(step).groups()  # type: ignore[union-attr]
            assert OPERATIONS[sign](int(left), int(right)) == int(result)
            assert {int(left), int(right)} <= known
            known.add(int(result))
            results.append(int(result))
        assert final == f"#### {results[-1]}"
        assert 1 <= len(steps) <= 2


def test_every_number_of_the_question_is_used() -> None:
    for row in generate_questions(2_000):
        working = row.answer.rsplit("\n", 1)[0]
        asked = set(re.findall(r"\d+", row.question))
        assert asked <= set(re.findall(r"\d+", working))


def test_templates_are_about_equally_common() -> None:
    rng = random.Random(0)
    drawn = Counter(draw_problem(rng, "test").template for _ in range(2_000))
    assert drawn.keys() == TEMPLATES.keys()
    assert max(drawn.values()) < 3 * min(drawn.values())


@pytest.mark.parametrize("arm_id", STYLED_ARMS)
def test_every_style_states_true_equations_and_the_answer(arm_id: str) -> None:
    rng = random.Random(arm_id)
    for _ in range(300):
        problem = draw_problem(rng, "train")
        *working, final = completion(problem, arm_id).split("\n")
        assert final == f"#### {problem.answer}"
        for left, right in re.findall(r"([\d(][-+*/() \d]*) = (\d+)", "\n".join(working)):
            assert eval(left) == int(right)  # only digits and signs, by the pattern above


def test_styles_cover_the_default_arms() -> None:
    assert list(STYLED_ARMS) == [arm.id for arm in load_arms(None).arms]


def test_gold_answers_score_one() -> None:
    for row in generate_questions(500):
        assert score_gsm8k(row.answer, row.answer).reward == 1


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}; it must be at least 1"):
        generate_questions(count)
