"""The demo's questions with prompts of about 300 tokens: each after the texts of the ten before it.

python infra/gpu-bench/long_questions.py OUT_FILE
"""

import json
import sys
from pathlib import Path

from profiles.demo.questions import generate_questions

BEFORE = 10
COUNT = 2_000


def main() -> None:
    questions = list(generate_questions(COUNT + BEFORE))
    with Path(sys.argv[1]).open("w", encoding="utf-8") as out:
        for index in range(BEFORE, len(questions)):
            told = " ".join(question.question for question in questions[index - BEFORE : index + 1])
            out.write(json.dumps({"question": told, "answer": questions[index].answer}) + "\n")


if __name__ == "__main__":
    main()
