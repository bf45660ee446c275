"""Recomputes logprobs as a trainer does: the model of transformers, in evaluation, over prompt and completion at once.

The logits of long texts do not fit any memory, so texts go through the model in pieces, with its cache, and the logits
of a piece are used before those of the next are made. torch and transformers are imported when the model is loaded.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.errors import ConfigError, HarvestError
from tasks.units import GIB, MIB
from tasks.user_code import in_words

_LOGIT_BYTES = {"cpu": 256 * MIB, "cuda": 2 * GIB}
"""Float32 logits that are made at a time."""
_ROWS = 256
"""Logits of so many tokens are looked at together: sorting makes copies of them."""


class Text(NamedTuple):
    """A prompt with its completion, as token ids."""

    prompt: Sequence[int]
    completion: Sequence[int]

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.completion]


class Piece(NamedTuple):
    """The logits that completion tokens ``start`` and following of a text were chosen from, in float32."""

    text: int
    """Index of the text."""
    start: int
    logits: Any
    """Shape (tokens, vocabulary)."""


class TrainerModel:
    """A causal language model of transformers.

    ``dtype`` is that of the weights, ``most_tokens`` how many go through the model at a time, by default what memory
    allows. Raises ConfigError when there is no such device, HarvestError when the model cannot be loaded.
    """

    def __init__(
        self, path: Path, *, dtype: str, device: str, trust_remote_code: bool = False, most_tokens: int | None = None
    ) -> None:
        import torch
        import transformers

        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, and torch finds no GPU here. Give --device cpu")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(path), dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
            ).to(device)
        except Exception as error:  # the libraries raise no narrower type
            raise HarvestError(
                f"transformers cannot load {path} in {dtype} on the device {device}: {in_words(error)}. Its memory "
                "must hold the weights; --device cpu uses the host's"
            ) from error
        self._model.eval()
        self._device = device
        self.vocabulary = int(self._model.config.get_text_config().vocab_size)
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self._most_tokens = most_tokens or max(64, _LOGIT_BYTES[device] // (4 * self.vocabulary))
        self._keeps_some = "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def logits(self, texts: Sequence[Text]) -> Iterator[Piece]:
        """Yield the logits of all completion tokens. Texts of similar lengths go through the model together.

        Raises ConfigError for a token that the model does not have, HarvestError when memory runs out.
        """
        import torch

        for text in texts:
            if (largest := max(text.ids)) >= self.vocabulary:
                raise ConfigError(
                    f"the rollouts hold the token id {largest}, and the model has {self.vocabulary} tokens. Give a "
                    "model with the run's tokenizer"
                )
        try:
            with torch.inference_mode():
                for batch in batches_by_length([len(text.ids) for text in texts], self._most_tokens):
                    yield from self._batch(texts, batch)
        except torch.OutOfMemoryError as error:
            raise HarvestError(f"GPU memory ran out: {in_words(error)}. Free it, or give --device cpu") from error

    def _batch(self, texts: Sequence[Text], batch: Sequence[int]) -> Iterator[Piece]:
        import torch

        longest = max(len(texts[index].ids) for index in batch)
        # what stands right of a token does not change its logits, so it may be anything
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, index in enumerate(batch):
            ids[row, : len(texts[index].ids)] = torch.tensor(texts[index].ids)
        ids = ids.to(self._device)
        first = min(len(texts[index].prompt) for index in batch) - 1
        width = max(1, self._most_tokens // len(batch))
        cache = None
        # nothing follows the last token
        for start in range(0, longest - 1, width):
            end = min(start + width, longest - 1)
            kept = max(1, end - max(start, first))
            output = self._model(
                input_ids=ids[:, start:end],
                attention_mask=torch.ones((len(batch), end), dtype=torch.long, device=self._device),
                past_key_values=cache,
                use_cache=longest - 1 > width,
                **({"logits_to_keep": kept} if self._keeps_some else {}),
            )
            cache = output.past_key_values if longest - 1 > width else None
            begin = end - output.logits.shape[1]
            for row, index in enumerate(batch):
                yield from _pieces(index, texts[index], output.logits[row], begin, end)


def _pieces(index: int, text: Text, logits: Any, begin: int, end: int) -> Iterator[Piece]:
    """Yield what ``logits`` of the positions ``begin`` to ``end`` say of the completion of ``text``."""
    ahead = len(text.prompt) - 1
    low, high = max(begin, ahead), min(end, len(text.ids) - 1)
    for start in range(low, high, _ROWS):
        stop = min(start + _ROWS, high)
        yield Piece(text=index, start=start - ahead, logits=logits[start - begin : stop - begin].float())


def batches_by_length(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Return the indices of ``lengths`` in batches of at most ``most_tokens``, padded; a longer text is alone.

    Longest first, so that memory runs out at once or not at all.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= most_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
