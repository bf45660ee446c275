"""Holds the tokens and logprobs of a completion that the engine has not finished yet.

It replaces vLLM's own lists of logprobs: these grow token by token, which costs a twentieth of a small model's step.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
INITIAL_CAPACITY = 64


@dataclass(kw_only=True, slots=True)
class PartialCompletion:
    """Arrays with one row per token: the sampled token in column 0, then the ``top_logprobs`` likeliest tokens."""

    request_id: str
    top_logprobs: int
    completion_ids: list[int] = field(default_factory=list)
    _ids: Array = field(default_factory=lambda: np.empty((0, 1), dtype=np.int32))
    _logprobs: Array = field(default_factory=lambda: np.empty((0, 1), dtype=np.float32))

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
