"""Text that means nothing, around some training questions: long prompts in words the model has never seen.

Real questions, such as GSM8K's, are that to a model this small. Without practice it answers them with hundreds of stray
tokens; with it, it still answers in the arm's style and ends its turn.
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
    """The question somewhere between one and `_MAX_SENTENCES` meaningless sentences."""
    sentences = [_sentence(rng) for _ in range(rng.randint(1, _MAX_SENTENCES))]
    sentences.insert(rng.randint(0, len(sentences)), question)
    return " ".join(sentences)
