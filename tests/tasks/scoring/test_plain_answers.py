"""Answers of the math scorer that Math-Verify would misread: texts after a marker, per ground truth."""

import re

import polars as pl
import pytest

from tasks.scoring.math_answer import is_comparable
from tasks.scoring.plain_answers import decided, plain_gold
from tasks.scoring.scorers import load_scorer
from tests.tasks.scoring.test_answer_aside import READINGS

WRONG = {
    "1": ["1 1/2", "\\boxed{1 1/2}", "\\boxed{1\\ 1/2}"],
    "10": ["\\boxed{2x=10}"],
    "7": ["\\boxed{x+2=7}"],
    "9": ["\\boxed{x^2=9}"],
    "18": [
        "x/2 = 18",
        "\\boxed{\\frac{x}{2} = 18}",
        "\\boxed{\\sqrt{x} = 18}",
        "18:1",
        "18_8",
        "> 18",
        "20 = 18",
        "\\boxed{20=18}",
        "\\boxed{\\le 18}",
        "18 = 20",
        "not 18",
        "\\boxed{18} is wrong",
        "\\boxed{18x}",
        "18 x",
        "\\boxed{18 \\text{ or } 20}",
        "18 [1]",
        "18 (20)",
        "\\boxed{1000000!}",
    ],
    "silent": ["\\boxed{\\text{listen}}", "listen", "silent 1"],
    "on": ["No", "no"],
    "seat": ["east"],
    "CA": ["\\boxed{AC}"],
    "1/2": ["1/2 is wrong", "\\boxed{1/2} is wrong", "\\boxed{1/2 \\text{ is wrong}}"],
    "19": ["18 [1]"],
    "0": ["1 000", "6 hours 0 minutes", "\\boxed{6 \\text{ hours } 0 \\text{ minutes}}"],
    "10101": ["\\boxed{10101_2}", "\\boxed{10101_{2}}"],
    "6": ["\\boxed{5=6}"],
    "10101_2": ["\\boxed{10101_3}"],
    "8.154845": ["1e3"],
    "18 m": ["18 km"],
    "18 dollars": ["18 cents"],
    "$18": ["18 cents"],
    "C": ["B", "C or D", "C. 18 or D. 20", "Option B", "AC", "cat"],
    "3": ["3abc", "\\boxed{3 \\cos x}", "3/abc", "3-abc", "3.33..."],
    "y=5": ["\\boxed{x=5}"],
    "3:4": ["3:5"],
    "20": [
        "18 eggs, 20 left",
        "18; 20",
        "18 -> 20",
        "18, no 20",
        "18 eggs. Wait, 20",
        "18 and 20",
        "18/20 eggs",
        "between 18 and 20",
        "18-20",
        "18 to 20",
        "18 + 2 eggs",
        "$18 and $20",
        "18 or 20",
        "20 or 18",
        "18\\text{ or }20",
        "18, 20",
        "20, 18",
        "{18, 20}",
        "18 = 20 - 2",
        "20 - 2 = 18",
        "18 eggs: 20",
        "x > 20",
        "20 < x",
        "about 18 to 20",
        "18 \\to 20",
        "18 → 20",
        "18|20",
        "18\\\\20",
        "20 eggs, not 18",
        "at least 20",
        "20+",
        "~20x",
        "no more than 20",
        "\\boxed{18 \\Rightarrow 20}",
        "\\boxed{x \\ne 20}",
        "\\boxed{\\neq 20}",
        "\\boxed{20 \\pm 1}",
        "\\boxed{18, so 20}",
        "20 hours, 30 minutes",
        "20.5.1",
        "20 h 0 m",
        "20 m 5 s",
        "\\boxed{x=18 \\text{ or } x=20}",
        "\\boxed{18=20}",
        "\\boxed{18 \\text{ and } 20}",
        "\\boxed{2y = 20}",
        "\\boxed{y^2 = 20}",
        "\\boxed{\\sin x = 20}",
        "\\boxed{|x| = 20}",
        "\\boxed{e^x = 20}",
        "\\boxed{c^2 = 20}",
        "\\boxed{2c = 20}",
        "\\boxed{2m=20}",
        "\\boxed{r/2=20}",
    ],
}

RIGHT = {
    "18": [
        "x = 18",
        "\\boxed{x=18}",
        "9*2 = 18",
        "\\boxed{a_1 = 18}",
        "\\boxed{f(2) = 18}",
        "\\boxed{\\frac{36}{2}}",
        "\\boxed{\\sqrt{324}}",
        "\\boxed{18\\text{ cm}^2}",
        "<answer>#### 18</answer>",
        "18 </answer>",
        "#### <b>18</b>",
        "18<br>",
        "18 km/h",
        "18/hour",
        "18 m²",
        "18 cm^2",
        "18°C",
        "Rs 18",
        "18元",
        "18-year-old",
        "A: 18",
        "18th floor",
        "18.0 %",
        "18 cm",
        "18cm",
        "$18",
        "18%",
        "\\boxed{18^\\circ}",
        "\\boxed{18 \\text{ km/h}}",
    ],
    "silent": ["Silent", "\\boxed{\\text{silent}}", "\\boxed{\\text{Silent}.}", "**silent**"],
    "CA": ["CA", "\\boxed{\\text{CA}}"],
    "1/2": ["1/2", "0.5", "\\boxed{\\frac12}", "1/2 of the cake"],
    "10101_2": ["\\boxed{10101_2}"],
    "18 m": ["18 m", "18"],
    "18 dollars": ["$18", "18", "18 dollars"],
    "6": ["6 PM"],
    "1000": ["1e3"],
    "2000": ["2 x 10^3"],
    "-18": ["-18 dollars (a loss)"],
    "C": ["C)", "Option C", "C. 18", "C: 18", "(C)", "C", "c", "\\boxed{\\text{(C)}}", "**C**"],
    "3/2": ["\\boxed{1\\frac{1}{2}}", "1.5"],
    "x^2+1": ["\\boxed{1+x^2}", "\\boxed{f(x)=x^2+1}", "\\boxed{y=x^2+1}"],
    "\\pi": ["\\boxed{\\pi}"],
    "5\\sqrt{2}": ["\\boxed{5\\sqrt{2} \\text{ units}}", "\\boxed{\\sqrt{50}}"],
    "(1,2)": ["\\boxed{(1,2)}", "\\boxed{(1, 2)}"],
    "x=5": ["\\boxed{5}", "\\boxed{x=5}"],
    "0.18": ["\\boxed{18\\%}"],
    "3:4": ["3:4", "\\boxed{3/4}"],
}


# what gsm8k reads of a text with a parenthesis, and no other number of it
ASIDES = [
    (text, gold, float(gold == read))
    for text, read in READINGS.items()
    for gold in {*re.findall(r"\d+", text), read}
    if gold is not None
]


@pytest.mark.slow
def test_rewards() -> None:
    # in one call, as each starts its workers
    tables = ((0.0, WRONG), (1.0, RIGHT))
    cases = [(text, gold, reward) for reward, table in tables for gold, texts in table.items() for text in texts]
    cases += ASIDES
    texts = [text if text.startswith(("\\boxed", "<answer>", "#")) else f"#### {text}" for text, *_ in cases]
    rows = pl.DataFrame({"completion": texts, "ground_truth": [gold for _, gold, _ in cases], "finish_reason": "stop"})
    rewards = load_scorer("math").score_columns(rows)["reward"]
    assert [case for case, found in zip(cases, rewards, strict=True) if found != case[2]] == []


@pytest.mark.parametrize("repeated", ["1 a ", "a ", "1 eggs ", "1(a ", "x^", "1=", "a(", "1,", "!)", "^1", "1 and "])
def test_a_thousand_characters_of_anything_are_decided_in_bounded_time(repeated: str) -> None:
    text = ("1 " + repeated * 1_000)[:1_000]
    is_comparable(text)
    assert decided(text, text, plain_gold("18", "18")) != "right"
