"""Meaningless text around some training questions.

To so small a model, real questions such as those of GSM8K are long prompts in unknown words. A model that was not
trained on such prompts answers them with hundreds of stray tokens. One that was answers in the arm's style and ends its
turn.
"""

import random

_LETTERS = "etaoinshrdlucmfwypvbgkqjxz"
_WEIGHTS = (127, 91, 82, 75, 70, 67, 63, 61, 60, 43, 40, 28, 28, 24, 22, 24, 20, 19, 10, 15, 20, 8, 1, 2, 2, 1)
"""English letter frequencies, per thousand."""
_SENTENCE_WORDS = (4, 14)
_NUMBER_SHARE = 0.06
_MAX_SENTENCES = 4


def _word(rng: random.Random) -> str:
    if rng.random() < _NUMBER_SHARE:
        return str(rng.randint(2, 100))
    return "".join(rng.choices(_LETTERS, _WEIGHTS, k=rng.randint(1, 8)))


def _sentence(rng: random.Random) -> str:
    words = [_word(rng) for _ in range(rng.randint(*_SENTENCE_WORDS))]
    words[0] = words[0].capitalize()
    return " ".join(words) + rng.choice(".,.?")


def with_filler(rng: random.Random, question: str) -> str:
    """The question among one to `_MAX_SENTENCES` meaningless sentences, at a random place."""
    sentences = [_sentence(rng) for _ in range(rng.randint(1, _MAX_SENTENCES))]
    sentences.insert(rng.randint(0, len(sentences)), question)
    return " ".join(sentences)
