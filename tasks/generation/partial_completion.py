"""Holds the tokens and logprobs of a completion that the engine has not finished yet.

It replaces vLLM's own lists of logprobs: these grow token by token, which costs a twentieth of a small model's step.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.generation.token_sets import Array, TokenSets

INITIAL_CAPACITY = 64


@dataclass(kw_only=True, slots=True)
class PartialCompletion:
    """Arrays with one row per token: the sampled token in column 0, then the ``top_logprobs`` likeliest tokens."""

    request_id: str
    top_logprobs: int
    completion_ids: list[int] = field(default_factory=list)
    _ids: Array = field(default_factory=lambda: np.empty((0, 1), dtype=np.int32))
    _logprobs: Array = field(default_factory=lambda: np.empty((0, 1), dtype=np.float32))
    _mask_counts: list[Array] = field(default_factory=list)
    _mask_ids: list[Array] = field(default_factory=list)
    _experts: list[Array] = field(default_factory=list)

    def append(self, token_ids: list[int], step: Any) -> None:
        """Add the tokens of one step.

        ``step`` has vLLM's arrays ``logprob_token_ids`` and ``logprobs`` of shape (tokens, columns). It is None without
        logprobs. The arrays are copied, because they share pinned memory with all other requests of the step.
        """
        start = len(self.completion_ids)
        self.completion_ids += token_ids
        if step is None:
            return
        end, width = len(self.completion_ids), 1 + self.top_logprobs
        if end > len(self._ids):
            shape = (max(INITIAL_CAPACITY, 2 * end), width)
            self._ids, ids = np.empty(shape, dtype=np.int32), self._ids
            self._logprobs, logprobs = np.empty(shape, dtype=np.float32), self._logprobs
            if start:
                self._ids[:start], self._logprobs[:start] = ids[:start], logprobs[:start]
        # the step's arrays have the columns of the request that wants most
        self._ids[start:end] = step.logprob_token_ids[:, :width]
        self._logprobs[start:end] = step.logprobs[:, :width]

    def append_stored(self, mask: Any, experts: Array | None) -> None:
        """Add what the engine tells of one step beside tokens; None for what was not asked for.

        ``mask`` has vLLM's arrays ``token_ids``, the sets of the step's tokens one after the other, and ``offsets``,
        which is None for one token. ``experts`` has shape (tokens, layers, experts per token).
        """
        if mask is not None:
            ids = np.array(mask.token_ids, dtype=np.int32)
            counts = [len(ids)] if mask.offsets is None else np.diff(mask.offsets)
            self._mask_counts.append(np.asarray(counts, dtype=np.int32))
            self._mask_ids.append(ids)
        if experts is not None:
            self._experts.append(np.array(experts))

    @property
    def sampling_mask(self) -> TokenSets | None:
        """The sets of tokens that the tokens were sampled from; None if not asked for."""
        if not self._mask_counts:
            return None
        return TokenSets(counts=np.concatenate(self._mask_counts), ids=np.concatenate(self._mask_ids))

    @property
    def routed_experts(self) -> Array | None:
        """The experts that each token went to, of shape (tokens, layers, experts per token); None if not asked for."""
        return np.concatenate(self._experts) if self._experts else None

    @property
    def logprobs(self) -> Array:
        """The logprobs of the sampled tokens, of shape (tokens,)."""
        return self._logprobs[: self._size, 0]

    @property
    def top(self) -> tuple[Array, Array] | None:
        """The ids and logprobs of the likeliest tokens, each of shape (tokens, top_logprobs); None if not asked for."""
        if not self.top_logprobs or not self._size:
            return None
        return self._ids[: self._size, 1:], self._logprobs[: self._size, 1:]

    @property
    def _size(self) -> int:
        return min(len(self.completion_ids), len(self._ids))
