"""Tokens are tinted by how unlikely they were, and their text stays what it was."""

import math
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from profiles.demo import model
from tasks.results.token_tints import Piece, find_tokenizer, pieces_of

MODEL = Path(next(iter(model.__path__)))
LIKELY, UNLIKELY = math.log(0.95), math.log(0.05)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = find_tokenizer(str(MODEL))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("probability", "tint"), [(1.0, 0), (0.9, 0), (0.89, 1), (0.5, 1), (0.49, 2), (0.1, 2), (0.09, 3), (0.0, 3)]
)
def test_tints(probability: float, tint: int) -> None:
    assert Piece(text="x", logprob=math.log(probability) if probability else -math.inf).tint == tint


def test_the_pieces_make_up_the_text(tokenizer: Tokenizer) -> None:
    text = "4 + 11 = 15\n#### 15"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    logprobs = [LIKELY] * len(ids)
    logprobs[2] = UNLIKELY
    pieces = pieces_of(text, ids, logprobs, tokenizer, 1_000)

    assert "".join(piece.text for piece in pieces) == text
    assert [piece.tint for piece in pieces] == [0, 3, 0]


@pytest.mark.parametrize(
    ("completion", "ids", "logprobs"),
    [
        ("another text", [5, 6, 7], [UNLIKELY] * 3),
        ("4 + 11", [5, 6, 7], [UNLIKELY] * 2),
        ("4 + 11", [2**31 - 1], [UNLIKELY]),
        ("4 + 11", [], []),
        ("", [5], [UNLIKELY]),
    ],
)
def test_tokens_of_another_text_are_not_tinted(
    completion: str, ids: list[int], logprobs: list[float], tokenizer: Tokenizer
) -> None:
    assert "".join(piece.text for piece in pieces_of(completion, ids, logprobs, tokenizer, 1_000)) == completion
    assert not any(piece.tint for piece in pieces_of(completion, ids, logprobs, tokenizer, 1_000))


def test_a_stop_string_ends_the_text_within_a_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("4 + 11 = 15", add_special_tokens=False).ids
    pieces = pieces_of("4 + 1", ids, [UNLIKELY] * len(ids), tokenizer, 1_000)
    assert "".join(piece.text for piece in pieces) == "4 + 1"
    assert all(piece.tint == 3 for piece in pieces)


def test_a_long_text_keeps_its_start_and_end(tokenizer: Tokenizer) -> None:
    text = " ".join(str(number) for number in range(200))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    shown = "".join(piece.text for piece in pieces_of(text, ids, [UNLIKELY] * len(ids), tokenizer, 30))
    assert shown == f"{text[:20]} … [{len(text) - 30:,} characters left out] … {text[-10:]}"


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", "\x00"])
def test_a_model_without_a_tokenizer_that_can_be_read(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert find_tokenizer(str(tmp_path)) is None
    assert find_tokenizer("") is None
    assert pieces_of("a\x1bb", [1], [UNLIKELY], None, 100) == (Piece(text="a␛b"),)
