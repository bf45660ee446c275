"""Generated grade-school word problems: the `demo` dataset, and what the demo model is trained on.

A hash of template and numbers, not of names and objects, decides the split. So a model that has seen every training
question has not seen the calculations of a test question in the same story.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Split = Literal["train", "test"]

NAMES = (
    "Ana",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hana",
    "Ivan",
    "Jo",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
    "Omar",
    "Zoe",
)
OBJECTS = (
    "apples",
    "books",
    "cards",
    "coins",
    "pens",
    "shells",
    "stamps",
    "marbles",
    "stickers",
    "balloons",
    "beads",
    "nuts",
)
TEST_SHARE = 8
"""One in this many (template, numbers) pairs belongs to the test split."""
MAX_REPEATS = 10_000
"""Draws in a row that only repeat earlier questions, after which the generator stops."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One calculation, `left op right = result`, and what the result counts, such as "apples in the bags"."""

    left: int
    op: Literal["+", "-", "*", "/"]
    right: int
    result: int
    finds: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A word problem with its solution. The result of the last step is the answer."""

    template: str
    question: str
    numbers: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return self.steps[-1].result

    @property
    def split(self) -> Split:
        key = f"{self.template}:{','.join(map(str, self.numbers))}"
        return "train" if hashlib.sha256(key.encode()).digest()[0] % TEST_SHARE else "test"


@dataclass(frozen=True, kw_only=True)
class DemoQuestion:
    """One row of the `demo` dataset; `answer` holds the working and ends in a line `#### N`, as in GSM8K."""

    example_id: str
    question: str
    answer: str


def _add(left: int, right: int, finds: str) -> Step:
    return Step(left=left, op="+", right=right, result=left + right, finds=finds)


def _subtract(left: int, right: int, finds: str) -> Step:
    return Step(left=left, op="-", right=right, result=left - right, finds=finds)


def _multiply(left: int, right: int, finds: str) -> Step:
    return Step(left=left, op="*", right=right, result=left * right, finds=finds)


def _divide(left: int, right: int, finds: str) -> Step:
    return Step(left=left, op="/", right=right, result=left // right, finds=finds)


Story = tuple[str, tuple[int, ...], tuple[Step, ...]]
Template = Callable[[random.Random, str, str, str], Story]


def _more(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a, b = rng.randint(2, 20), rng.randint(2, 12)
    text = f"{name} has {a} {things}. {friend} gives {name} {b} more. How many {things} does {name} have now?"
    return text, (a, b), (_add(a, b, f"{things} now"),)


def _fewer(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a = rng.randint(4, 20)
    b = rng.randint(2, min(a - 1, 12))
    text = f"{name} has {a} {things} and gives {b} to {friend}. How many {things} does {name} have left?"
    return text, (a, b), (_subtract(a, b, f"{things} left"),)


def _boxes(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    text = f"{name} fills {a} boxes with {b} {things} each. How many {things} is that in all?"
    return text, (a, b), (_multiply(a, b, f"{things} in all"),)


def _share(rng: random.Random, name: str, friend: str, things: str) -> Story:
    each, friends = rng.randint(2, 9), rng.randint(2, 9)
    total = each * friends
    text = f"{name} shares {total} {things} equally among {friends} friends. How many {things} does each friend get?"
    return text, (total, friends), (_divide(total, friends, f"{things} for each friend"),)


def _bags_minus(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(2, min(a * b - 1, 12))
    text = f"{name} buys {a} bags of {b} {things} and loses {c}. How many {things} does {name} have left?"
    return text, (a, b, c), (_multiply(a, b, f"{things} in the bags"), _subtract(a * b, c, f"{things} left"))


def _bags_plus(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 12)
    text = f"{name} has {c} {things} and buys {a} bags of {b} {things}. How many {things} does {name} have now?"
    return text, (c, a, b), (_multiply(a, b, f"{things} in the bags"), _add(a * b, c, f"{things} now"))


def _gain_then_lose(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    c = rng.randint(2, min(a + b - 1, 12))
    text = f"{name} has {a} {things}, finds {b} more and then loses {c}. How many {things} does {name} have left?"
    return text, (a, b, c), (_add(a, b, f"{things} before the loss"), _subtract(a + b, c, f"{things} left"))


def _together(rng: random.Random, name: str, friend: str, things: str) -> Story:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    text = f"{name} has {a} {things}. {friend} has {b} more than {name}. How many {things} do they have together?"
    return text, (a, b), (_add(a, b, f"{things} of {friend}"), _add(a + b, a, f"{things} together"))


def _change(rng: random.Random, name: str, friend: str, things: str) -> Story:
    count, price = rng.randint(2, 9), rng.randint(2, 9)
    paid = count * price + rng.randint(2, 12)
    text = (
        f"{name} buys {count} {things} at ${price} each and pays with ${paid}. How many dollars does {name} get back?"
    )
    return (
        text,
        (count, price, paid),
        (_multiply(count, price, f"dollars for the {things}"), _subtract(paid, count * price, "dollars back")),
    )


def _pool_and_share(rng: random.Random, name: str, friend: str, things: str) -> Story:
    friends, each = rng.randint(2, 6), rng.randint(2, 6)
    total = friends * each
    a = rng.randint(1, total - 1)
    b = total - a
    text = (
        f"{name} has {a} {things} and {friend} has {b}. They share them equally among {friends} friends. "
        f"How many {things} does each friend get?"
    )
    return (
        text,
        (a, b, friends),
        (_add(a, b, f"{things} to share"), _divide(total, friends, f"{things} for each friend")),
    )


TEMPLATES: dict[str, Template] = {
    "more": _more,
    "fewer": _fewer,
    "boxes": _boxes,
    "share": _share,
    "bags_minus": _bags_minus,
    "bags_plus": _bags_plus,
    "gain_then_lose": _gain_then_lose,
    "together": _together,
    "change": _change,
    "pool_and_share": _pool_and_share,
}


def draw_problem(rng: random.Random, split: Split) -> Problem:
    """One problem of the split; templates are equally likely."""
    while True:
        template = rng.choice(list(TEMPLATES))
        name, friend = rng.sample(NAMES, 2)
        question, numbers, steps = TEMPLATES[template](rng, name, friend, rng.choice(OBJECTS))
        problem = Problem(template=template, question=question, numbers=numbers, steps=steps)
        if problem.split == split:
            return problem


def worked_answer(problem: Problem) -> str:
    """The solution in GSM8K's form: one calculation per line, then `#### N`."""
    lines = [f"{step.left} {step.op} {step.right} = {step.result} {step.finds}" for step in problem.steps]
    return "\n".join([*lines, f"#### {problem.answer}"])


def _distinct_problems(seed: int, split: Split) -> Iterator[Problem]:
    rng = random.Random(f"demo:{split}:{seed}")
    seen: set[str] = set()
    repeats = 0
    while repeats < MAX_REPEATS:
        problem = draw_problem(rng, split)
        if problem.question in seen:
            repeats += 1
            continue
        repeats = 0
        seen.add(problem.question)
        yield problem


def generate_questions(count: int, seed: int = 0, split: Split = "test") -> list[DemoQuestion]:
    """`count` distinct questions; the first n of a larger count are those of count n with the same seed.

    Raises ValueError for a count below 1, or above the number of distinct questions that the split has.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    problems = list(islice(_distinct_problems(seed, split), count))
    if len(problems) < count:
        raise ValueError(f"count is {count}; the {split} split has about {len(problems)} questions: ask for fewer")
    return [
        DemoQuestion(
            example_id=f"demo-{split}-{seed}-{index:06d}", question=problem.question, answer=worked_answer(problem)
        )
        for index, problem in enumerate(problems)
    ]
