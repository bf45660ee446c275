"""A completion while the engine still makes it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FIRST_ROOM = 64


@dataclass(kw_only=True, slots=True)
class GrowingCompletion:
    """Per token its id and a row per array: of the sampled token first, then of the ``top_logprobs`` most likely."""

    request_id: str
    top_logprobs: int
    completion_ids: list[int] = field(default_factory=list)
    _ids: Array = field(default_factory=lambda: np.empty((0, 1), dtype=np.int32))
    _logprobs: Array = field(default_factory=lambda: np.empty((0, 1), dtype=np.float32))

    def take(self, token_ids: list[int], step: Any) -> None:
        """Copy what a step brought, and let go of its arrays, which lie in pinned memory and are of all requests.

        ``step`` has vLLM's ``logprob_token_ids`` and ``logprobs``, (tokens, columns), or is None without logprobs.
        """
        start = len(self.completion_ids)
        self.completion_ids += token_ids
        if step is None:
            return
        end, width = len(self.completion_ids), 1 + self.top_logprobs
        if end > len(self._ids):
            room = (max(FIRST_ROOM, 2 * end), width)
            self._ids, ids = np.empty(room, dtype=np.int32), self._ids
            self._logprobs, logprobs = np.empty(room, dtype=np.float32), self._logprobs
            if start:
                self._ids[:start], self._logprobs[:start] = ids[:start], logprobs[:start]
        # as many columns as any request of the step wants
        self._ids[start:end] = step.logprob_token_ids[:, :width]
        self._logprobs[start:end] = step.logprobs[:, :width]

    @property
    def logprobs(self) -> Array:
        """Of the sampled tokens, (tokens,)."""
        return self._logprobs[: self._size, 0]

    @property
    def top(self) -> tuple[Array, Array] | None:
        """Ids and logprobs of the most likely tokens, each (tokens, top_logprobs); None when none were asked for."""
        if not self.top_logprobs or not self._size:
            return None
        return self._ids[: self._size, 1:], self._logprobs[: self._size, 1:]

    @property
    def _size(self) -> int:
        return min(len(self.completion_ids), len(self._ids))
