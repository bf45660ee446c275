"""The model of transformers gives the same logits whatever goes through it at a time."""

import pytest

from profiles.load import DEMO_MODEL
from tasks.comparison.trainer_logprobs import Text, TrainerModel, batches_by_length
from tasks.errors import ConfigError, HarvestError

TEXTS = [Text(range(3, 3 + prompt), range(40, 40 + completion)) for prompt, completion in [(9, 7), (30, 1), (2, 41)]]


@pytest.mark.parametrize(
    ("lengths", "most", "batches"),
    [
        ([], 10, []),
        ([3, 9, 3, 4], 8, [[1], [3, 0], [2]]),
        ([5, 5, 5], 15, [[0, 1, 2]]),
        ([100], 8, [[0]]),
    ],
)
def test_texts_of_similar_lengths_are_together(lengths: list[int], most: int, batches: list[list[int]]) -> None:
    assert batches_by_length(lengths, most) == batches


def test_pieces_through_the_cache_give_the_logits_of_the_whole() -> None:
    import torch

    def logits(most_tokens: int | None) -> list[torch.Tensor]:
        model = TrainerModel(DEMO_MODEL, dtype="float32", device="cpu", most_tokens=most_tokens)
        found = [torch.full((len(text.completion), model.vocabulary), torch.nan) for text in TEXTS]
        for text, start, piece in model.logits(TEXTS):
            found[text][start : start + len(piece)] = piece
        return found

    whole = logits(None)
    for most_tokens in (5, 70):
        for one, other in zip(whole, logits(most_tokens), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_token_beyond_the_vocabulary_is_named() -> None:
    model = TrainerModel(DEMO_MODEL, dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match=rf"the token id 99999, and the model has {model.vocabulary} tokens"):
        next(model.logits([Text([1, 2], [99_999])]))


def test_a_model_that_cannot_be_loaded_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(HarvestError, match=rf"transformers cannot load {directory} in float32 on the device cpu"):
        TrainerModel(directory, dtype="float32", device="cpu")
