"""Tokens are tinted by how unlikely they were, and their text stays what it was."""

import math
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from profiles.demo import model
from tasks.results.token_tints import MOST_TINTED, Piece, find_tokenizer, pieces_of

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
    pieces = pieces_of(text, ids, [UNLIKELY] * len(ids), tokenizer, 150)
    middle = f" … [{len(text) - 150:,} characters left out] … "
    assert "".join(piece.text for piece in pieces) == f"{text[:100]}{middle}{text[-50:]}"
    [left_out] = [index for index, piece in enumerate(pieces) if piece.text.startswith(middle)]
    assert {piece.tint for piece in pieces[:left_out]} == {3}
    assert {piece.tint for piece in pieces[left_out + 1 :]} == {3}
    assert len(pieces) - left_out > 10


def test_the_least_likely_tokens_are_tinted_where_all_are_unlikely(tokenizer: Tokenizer) -> None:
    text = " ".join(str(number) for number in range(400))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > 2 * MOST_TINTED
    logprobs = [UNLIKELY - index / len(ids) for index in range(len(ids))]
    pieces = pieces_of(text, ids, logprobs, tokenizer, len(text))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.logprob for piece in pieces if piece.tint] == logprobs[-MOST_TINTED:]


def test_control_characters_do_not_make_a_text_long(tokenizer: Tokenizer) -> None:
    text = "\u202e" * 1_000
    assert sum(len(piece.text) for piece in pieces_of(text, [5], [UNLIKELY], tokenizer, 100)) < 300


def test_the_end_of_a_text_that_a_stop_string_cut_has_no_tint(tokenizer: Tokenizer) -> None:
    text = " ".join(str(number) for number in range(200))
    ids = tokenizer.encode(text + " 200", add_special_tokens=False).ids
    pieces = pieces_of(text, ids, [UNLIKELY] * len(ids), tokenizer, 300)
    assert pieces[-1].text.endswith(f"characters left out] … {text[-100:]}")
    assert pieces[0].tint == 3


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", "\x00"])
def test_a_model_without_a_tokenizer_that_can_be_read(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert find_tokenizer(str(tmp_path)) is None
    assert find_tokenizer("") is None
    assert pieces_of("a\x1bb", [1], [UNLIKELY], None, 100) == (Piece(text="a␛b"),)
