import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import psutil
import pytest

from tasks.idleness import Idleness
from tasks.results.sampling_metrics import maj_at_k
from tasks.scoring.math_scorer import MathScorer
from tasks.scoring.math_workers import LIMIT_S, AnswerPair, _advance, _stop, _Work, _Worker, verify_all
from tasks.scoring.score_shard import score_frame

BOMB = "9^{9^{9^{9}}}"

pytestmark = pytest.mark.slow


def test_expressions_are_compared_in_any_thread_a_huge_one_loses_only_its_own_reward_and_equal_ones_vote() -> None:
    cases = [
        ("so \\boxed{\\frac{36}{2}}", "18", "stop", (1.0, "18", "math", False)),
        ("#### $\\frac{1}{2}$", "0.5", "stop", (1.0, "0.5", "math", False)),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", "stop", (1.0, "(x+1)^2", "math", False)),
        ("\\boxed{19}", "18", "stop", (0.0, "19", "math", False)),
        (f"\\boxed{{{BOMB}}}", "18", "stop", (0.0, BOMB, "timeout", False)),
        ("\\boxed{18}\n#### Explanation\nNine times two.", "18", "stop", (1.0, "18", "math", False)),
        ("#### Answer: 18", "18", "stop", (1.0, "18", "math", False)),
        ("#### **73**", "73", "stop", (1.0, "73", "math", False)),
        ("#### 5.", "5", "stop", (1.0, "5", "math", False)),
        ("#### 1/2.", "\\frac{1}{2}", "stop", (1.0, "\\frac{1}{2}", "math", False)),
        ("#### C.", "C", "stop", (1.0, "C", "math", False)),
        ("#### (c)", "C", "stop", (1.0, "C", "math", False)),
        ("#### $70,000.", "70000", "stop", (1.0, "70000", "math", False)),
        ("#### 70,000 dollars", "70,000", "stop", (1.0, "70000", "math", False)),
        ("#### 24 cookies (2 trays of 12)", "24", "stop", (1.0, "24", "math", False)),
        ("#### (10)", "10", "stop", (0.0, None, "ambiguous", True)),
        ("\\boxed{3abc}", "3", "stop", (0.0, "3*a*b*c", "math", True)),
        ("\\boxed{18\\%}", "18", "stop", (1.0, "18", "math", False)),
        ("#### \\frac{36}{2", "18", "stop", (0.0, None, "ambiguous", False)),
        ("\\boxed{18}/2", "18", "stop", (0.0, None, "ambiguous", False)),
        ("It is 18", "18", "stop", (0.0, None, "none", True)),
        ("\\boxed{1", "18", "length", (0.0, None, "truncated", False)),
        ("<think>\\boxed{18}</think>", "18", "stop", (0.0, None, "none", False)),
        ("\\boxed{18}", "", "stop", (None, "18", "gold_unparseable", False)),
    ]
    # equal answers have one text, so that they vote together
    groups = {
        "1/2": ["1/2", "0.5", "\\frac{1}{2}"],
        "0.333333": ["1/3", "\\dfrac13", "0.3333333"],
        "3.464102": ["\\sqrt{12}", "2\\sqrt{3}"],
        "x**2 + 2*x + 1": ["(x+1)^2", "x^2+2x+1"],
        "5": ["5", "x = 5", "5 \\text{ cm}"],
        "18": ["18", "9 \\cdot 2 = 18"],
        "Paris": ["Paris", "\\text{Paris}"],
    }
    texts = [(text, form) for text, forms in groups.items() for form in forms]
    # in one call, as each starts its workers
    asked = [case[:3] for case in cases] + [(f"\\boxed{{{form}}}", "1/2", "stop") for _, form in texts]
    rows = pl.DataFrame(asked, schema=["completion", "ground_truth", "finish_reason"], orient="row").with_columns(
        rollout_id=pl.int_range(len(asked)).cast(pl.String), example_id=pl.lit("q"), arm_id=pl.lit("a")
    )
    scorer = MathScorer(limit_s=LIMIT_S / 6)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with ThreadPoolExecutor(1) as thread:
        scores = thread.submit(score_frame, rows, scorer).result()
    left = {process for process in psutil.Process().children(recursive=True) if process.pid not in before}
    # multiprocessing keeps one tracker process
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in left)
    assert scores["scorer_version"].unique().to_list() == [scorer.version]
    columns = ["reward", "extracted_answer", "extraction_method", "correct_flexible"]
    # a right answer counts in the flexible column too
    expected = [(reward, text, method, flexible or reward == 1) for *_, (reward, text, method, flexible) in cases]
    assert scores.select(columns).head(len(cases)).rows() == expected

    of_groups = scores.tail(len(texts))
    assert list(zip(of_groups["extracted_answer"], (form for _, form in texts), strict=True)) == texts
    assert of_groups["reward"].to_list() == [float(text == "1/2") for text, _ in texts]
    # three forms of the right answer, and two of a wrong one
    assert maj_at_k(rows.join(of_groups, on="rollout_id").head(5)) == 1.0


def test_no_pairs_start_no_worker() -> None:
    assert verify_all([]) == ([], {})
    assert MathScorer().version.startswith("4-")


def killed_from_outside() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ended_by_its_limit() -> None:
    os.kill(os.getpid(), signal.SIGPROF)


@pytest.mark.parametrize(("ending", "again"), [(killed_from_outside, True), (ended_by_its_limit, False)])
def test_only_an_answer_whose_worker_was_killed_from_outside_is_compared_once_more(
    ending: Callable[[], None], again: bool
) -> None:
    context = multiprocessing.get_context("spawn")
    work = _Work([AnswerPair(candidate="18", gold="18")], LIMIT_S)
    work.queue.clear()
    for expected in (again, False):
        ours, theirs = context.Pipe()
        process = context.Process(target=ending)
        process.start()
        theirs.close()
        process.join()
        worker = _Worker(process=process, connection=ours, idleness=Idleness(float), index=0)
        successor = _advance(worker, work)
        assert (successor is not None) is expected
        assert list(work.queue) == [0] * expected
        if successor is not None:
            _stop(successor)
        work.queue.clear()
