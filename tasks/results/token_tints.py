"""The tokens of a completion as pieces of its text, each with its logprob, to show where a model was unsure."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tasks.plain_text import visible

TINTS = ((0.9, 0), (0.5, 1), (0.1, 2), (0.0, 3))
"""Least probability of a token, and its tint: 0 is none, 3 the strongest."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a completion. ``logprob`` is of the least likely of its tokens; None where it is not known."""

    text: str
    logprob: float | None = None

    @property
    def tint(self) -> int:
        if self.logprob is None:
            return 0
        return next((tint for least, tint in TINTS if self.logprob >= _log(least)), TINTS[-1][1])


def find_tokenizer(model_path: str) -> Tokenizer | None:
    """Return the tokenizer in the model's directory, if it is still there and holds one that can be read."""
    path = Path(model_path) / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path)) if model_path and path.is_file() else None
    except Exception:  # the library raises nothing more exact
        return None


def pieces_of(
    completion: str, ids: Sequence[int], logprobs: Sequence[float], tokenizer: Tokenizer | None, most: int
) -> tuple[Piece, ...]:
    """Return the text as pieces of at most ``most`` characters in all, control characters made visible.

    Neighbours without a tint are one piece. Where the tokens do not make up the text, for instance because the
    tokenizer is another one, all of it is one piece without a logprob.
    """
    pieces = _merged(_decoded(completion, ids, logprobs, tokenizer))
    return tuple(Piece(text=visible(piece.text), logprob=piece.logprob) for piece in _shortened(pieces, most))


def _decoded(
    completion: str, ids: Sequence[int], logprobs: Sequence[float], tokenizer: Tokenizer | None
) -> list[Piece]:
    whole = [Piece(text=completion)]
    if tokenizer is None or len(ids) != len(logprobs):
        return whole
    stream, pieces, waiting = DecodeStream(skip_special_tokens=True), list[Piece](), list[float]()
    try:
        for token, logprob in zip(ids, logprobs, strict=True):
            text = stream.step(tokenizer, token)
            waiting.append(logprob)
            # a character of several tokens comes with the last of them
            if text:
                pieces.append(Piece(text=text, logprob=min(waiting)))
                waiting.clear()
    except Exception:  # ids that this tokenizer lacks
        return whole
    joined = "".join(piece.text for piece in pieces)
    # a stop string ends the text within the tokens
    return _cut(pieces, len(completion)) if completion and joined.startswith(completion) else whole


def _cut(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """Return the first ``most`` characters."""
    kept, left = list[Piece](), most
    for piece in pieces:
        if left <= 0:
            break
        kept.append(Piece(text=piece.text[:left], logprob=piece.logprob))
        left -= len(piece.text)
    return kept


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and piece.tint == merged[-1].tint == 0:
            merged[-1] = Piece(text=merged[-1].text + piece.text)
        else:
            merged.append(piece if piece.tint else Piece(text=piece.text))
    return merged


def _shortened(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """Return the start and the end, and how much is left out between, as ``plain_text.shortened`` does."""
    length = sum(len(piece.text) for piece in pieces)
    if length <= most:
        return list(pieces)
    head = most * 2 // 3
    left_out = Piece(text=f" … [{length - most:,} characters left out] … ")
    turned = [Piece(text=piece.text[::-1], logprob=piece.logprob) for piece in reversed(pieces)]
    tail = [Piece(text=piece.text[::-1], logprob=piece.logprob) for piece in reversed(_cut(turned, most - head))]
    return [*_cut(pieces, head), left_out, *tail]


@functools.cache
def _log(probability: float) -> float:
    from math import inf, log

    return log(probability) if probability else -inf
