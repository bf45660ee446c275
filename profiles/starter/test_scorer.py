"""What the scorer pays. A line for each case: completion, ground truth, finish reason, reward."""

from scorer import exact

CASES = [
    ("3 + 4 = 7\n#### 7", "7", "stop", 1),
    ("#### 1,200", "1200", "stop", 1),
    ("#### 8", "7", "stop", 0),
    ("It is 7.", "7", "stop", 0),
    ("#### 7 or #### 8", "7", "stop", 0),
    ("#### 7", "7", "length", 0),
    ("", "7", "stop", 0),
]


def test_the_scorer_pays_right_answers_and_no_others() -> None:
    for completion, ground_truth, finish_reason, reward in CASES:
        assert exact(completion, ground_truth, finish_reason)["reward"] == reward, completion
