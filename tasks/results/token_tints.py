"""The tokens of a completion as pieces of its text, each with its logprob, to show where a model was unsure."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.files import file_identity
from tasks.plain_text import shortened, visible

# it comes with vLLM, and a report is also made where no engine is
if TYPE_CHECKING:
    from tokenizers import Tokenizer

TINTS = ((0.9, 0), (0.5, 1), (0.1, 2), (0.0, 3))
"""Least probability of a token, and its tint: 0 is none, 3 the strongest."""
MOST_TINTED = 200
Token = tuple[int, float]
"""Id and logprob."""


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


def find_tokenizer(model_path: str) -> "Tokenizer | None":
    """Return the tokenizer in the model's directory, if it is still there and holds one that can be read."""
    path = Path(model_path) / "tokenizer.json"
    try:
        return _loaded(path, file_identity(path.stat())) if model_path and path.is_file() else None
    except Exception:  # the library is not there, or raises nothing more exact
        return None


@functools.lru_cache(maxsize=2)
def _loaded(path: Path, identity: tuple[int, ...]) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def pieces_of(
    completion: str, ids: Sequence[int], logprobs: Sequence[float], tokenizer: "Tokenizer | None", most: int
) -> tuple[Piece, ...]:
    """Return the text as pieces of at most ``most`` characters in all, control characters made visible.

    Of a longer text it is the start and the end, as ``plain_text.shortened`` has them. Neighbours without a tint are
    one piece, and only the MOST_TINTED least likely tokens have one, so that a page stays small. Where the tokens do
    not make up the text, for instance because the tokenizer is another one, it has no tint.
    """
    tokens = list(zip(ids, logprobs, strict=True)) if len(ids) == len(logprobs) else []
    if tokenizer is None or not tokens:
        pieces = [Piece(text=shortened(completion, most))]
    elif len(completion) <= most:
        pieces = _start(completion, tokens, tokenizer)
    else:
        head = most * 2 // 3
        left_out = Piece(text=f" … [{len(completion) - most:,} characters left out] … ")
        end = _end(completion[head - most :], tokens, tokenizer)
        pieces = [*_start(completion[:head], tokens, tokenizer), left_out, *end]
    shown = [Piece(text=visible(piece.text), logprob=piece.logprob) for piece in _merged(_least_likely(pieces))]
    # names of control characters are long
    if sum(len(piece.text) for piece in shown) > 2 * most:
        return (Piece(text=shortened("".join(piece.text for piece in shown), 2 * most)),)
    return tuple(shown)


def _start(text: str, tokens: Sequence[Token], tokenizer: "Tokenizer") -> list[Piece]:
    """Return ``text``, which the tokens begin with, as pieces. A stop string may have cut it within a token."""
    pieces, length = list[Piece](), 0
    for piece in _decoded(tokens, tokenizer):
        pieces.append(Piece(text=piece.text[: len(text) - length], logprob=piece.logprob))
        length += len(piece.text)
        if length >= len(text):
            break
    return pieces if "".join(piece.text for piece in pieces) == text else [Piece(text=text)]


def _end(text: str, tokens: Sequence[Token], tokenizer: "Tokenizer") -> list[Piece]:
    """Return ``text``, which the tokens end with, as pieces, as far as about two characters per token reach."""
    pieces = list(_decoded(tokens[-len(text) // 2 - 1 :], tokenizer))
    # the first ones lack what was before them
    del pieces[:2]
    while sum(len(piece.text) for piece in pieces) > len(text):
        del pieces[0]
    joined = "".join(piece.text for piece in pieces)
    if not joined or not text.endswith(joined):
        return [Piece(text=text)]
    return [Piece(text=text[: -len(joined)]), *pieces]


def _decoded(tokens: Sequence[Token], tokenizer: "Tokenizer") -> Iterator[Piece]:
    from tokenizers.decoders import DecodeStream

    stream, waiting = DecodeStream(skip_special_tokens=True), list[float]()
    for token, logprob in tokens:
        try:
            text = stream.step(tokenizer, token)
        except Exception:  # an id that this tokenizer lacks
            return
        waiting.append(logprob)
        # a character of several tokens comes with the last of them
        if text:
            yield Piece(text=text, logprob=min(waiting))
            waiting.clear()


def _least_likely(pieces: Sequence[Piece]) -> list[Piece]:
    ranked = sorted(piece.logprob for piece in pieces if piece.logprob is not None and piece.tint)
    if len(ranked) <= MOST_TINTED:
        return list(pieces)
    return [
        piece if piece.logprob is not None and piece.logprob < ranked[MOST_TINTED] else Piece(text=piece.text)
        for piece in pieces
    ]


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and piece.tint == merged[-1].tint == 0:
            merged[-1] = Piece(text=merged[-1].text + piece.text)
        elif piece.text:
            merged.append(piece if piece.tint else Piece(text=piece.text))
    return merged


@functools.cache
def _log(probability: float) -> float:
    from math import inf, log

    return log(probability) if probability else -inf
