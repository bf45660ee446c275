"""Answers per second on one core: the strict scorer, beside a plain regular expression on the same text.

    python -m tests.bench.bench_scoring [ROWS]

The completions are distinct, about 1,000 characters long, and mix the forms of chat and base models. As in a shard,
COMPLETIONS_PER_QUESTION of them answer the same question, right or wrong.
"""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # read once, when polars is imported

import json
import random
import sys
import time
from collections.abc import Callable

import polars as pl

from tasks.scoring.gsm8k_scorer import score_gsm8k
from tasks.scoring.score_shard import score_frame

ROWS = 60_000
CHARACTERS = 1_000
COMPLETIONS_PER_QUESTION = 8 * 4  # arms x samples
ROUNDS = 20

_PEOPLE = ("Janet", "Tom", "Weng", "Natalia", "Mrs. O’Neil", "The farmer", "Each of the friends", "Her brother")
_VERBS = ("sells", "buys", "bakes", "reads", "saves", "walks", "collects", "pays for")
_THINGS = ("eggs", "clips", "pages", "dollars", "miles", "boxes of pizza", "tickets", "marbles", "hours of work")
_TAILS = (
    ("#### {n}", 30),
    ("#### {n}\n", 10),
    ("#### ${n:,}", 8),
    ("#### **{n}**", 5),
    ("#### {n} dollars.\n\nLet me know if you would like to see another way to solve it!", 5),
    ("So the answer is $\\boxed{{{n}}}$.", 15),
    ("\\[\n\\boxed{{{n} \\text{{ dollars}}}}\n\\]", 8),
    ("**Final Answer:** \\boxed{{\\${n:,}}}", 4),
    ("The answer is {n}.", 10),
    ("#### {n}\n\nQuestion: Tom has 4 cats.\nAnswer: 4\n#### 4", 2),
    ("So in total that makes {n}", 3),
)


def completion(rng: random.Random, gold: int) -> str:
    """A distinct chain of thought of about CHARACTERS characters that ends in ``gold`` or another number."""
    lines = []
    length = 0
    while length < CHARACTERS - 40:
        a, b = rng.randint(2, 400), rng.randint(2, 60)
        working = f"<<{a}*{b}={a * b}>>{a * b}" if rng.random() < 0.3 else f"{a * b:,}"
        line = (
            f"{rng.choice(('First', 'Then', 'After that', '**Step**', 'Next'))}: {rng.choice(_PEOPLE)} "
            f"{rng.choice(_VERBS)} {a} {rng.choice(_THINGS)} for each of the {b} {rng.choice(_THINGS)}, "
            f"so {a} {rng.choice('*x×')} {b} = {working} {rng.choice(_THINGS)}.\n"
        )
        lines.append(line)
        length += len(line)
    tail = rng.choices([form for form, _ in _TAILS], [weight for _, weight in _TAILS])[0]
    answer = gold if rng.random() < 0.6 else rng.choice([gold * 2, gold + 10, rng.randint(1, 5_000)])
    return "".join(lines) + tail.format(n=answer)


def shard(rows: int, *, thinking: bool, seed: int = 0) -> pl.DataFrame:
    """A frame that ``score_frame`` takes; with ``thinking`` the working stands inside think tags."""
    rng = random.Random(seed)
    questions = [rng.randint(1, 5_000) for _ in range(-(-rows // COMPLETIONS_PER_QUESTION))]
    golds = [questions[row // COMPLETIONS_PER_QUESTION] for row in range(rows)]
    texts = [completion(rng, gold) for gold in golds]
    if thinking:
        texts = [f"<think>\n{text}\n</think>\n\n{text[-120:]}" for text in texts]
    return pl.DataFrame(
        {
            "rollout_id": [f"r{index}" for index in range(rows)],
            "completion": texts,
            "ground_truth": list(map(str, golds)),
            "finish_reason": rng.choices(["stop", "length"], [95, 5], k=rows),
        }
    )


def plain_regex(rows: pl.DataFrame) -> pl.DataFrame:
    """The usual reference: the first ``#### N``, commas dropped, compared as text."""
    found = pl.col("completion").str.extract(r"#### (\-?[0-9\.\,]+)").str.replace_all(",", "", literal=True)
    return rows.select(reward=(found == pl.col("ground_truth")).fill_null(False))


def scalar(rows: pl.DataFrame) -> list[float]:
    """The scalar path, row by row."""
    columns = rows.select("completion", "ground_truth", "finish_reason")
    return [score_gsm8k(*row).reward for row in columns.iter_rows()]


def answers_per_second(score: Callable[[pl.DataFrame], object], rows: pl.DataFrame) -> float:
    """Best of ROUNDS, by the processor time of this process, so that other work of the machine does not count."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        score(rows)
        best = min(best, time.process_time() - started)
    return rows.height / best


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    chat, thinking = shard(rows, thinking=False), shard(rows // 4, thinking=True)
    result = {
        "rows": rows,
        "distinct": chat["completion"].n_unique(),
        "mean_characters": round(float(chat["completion"].str.len_chars().mean() or 0)),
        "threads": pl.thread_pool_size(),
        "strict_vectorised_per_s": round(answers_per_second(score_frame, chat)),
        "strict_vectorised_think_tags_per_s": round(answers_per_second(score_frame, thinking)),
        "strict_scalar_per_s": round(answers_per_second(scalar, chat.head(rows // 10))),
        "plain_regex_per_s": round(answers_per_second(plain_regex, chat)),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
