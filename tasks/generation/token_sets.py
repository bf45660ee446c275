"""A set of tokens for each token of a completion, in two flat arrays: the sampling mask of a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSets:
    """``counts`` has shape (completion tokens,); ``ids`` has the sets one after the other."""

    counts: Array
    ids: Array


def token_sets(sets: Sequence[Sequence[int]]) -> TokenSets:
    """Return the sets of a nested list."""
    counts = np.array([len(ids) for ids in sets], dtype=np.int32)
    flat = [np.asarray(ids, dtype=np.int32) for ids in sets]
    return TokenSets(counts=counts, ids=np.concatenate(flat) if flat else np.empty(0, dtype=np.int32))
