"""The stored tokens' logprobs, recomputed: of the distribution that a trainer computes, and of the one of the run."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from tasks.comparison.importance_ratios import Array
from tasks.comparison.mismatch_report import TemperatureFit
from tasks.comparison.sampling_support import Truncation, full_logprobs, masked_logprobs, truncated_logprobs
from tasks.comparison.trainer_logprobs import Text, TrainerModel
from tasks.errors import HarvestError

MASK = "sampling_mask"
"""Column of the token ids that the engine could sample at each position, where a run stores them."""
_TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(1, 21))
_FIT_TOKENS = 512
_WORST_GAP = 10.0
"""A larger one counts as this one in the fit, which would else depend on single tokens."""


class RecomputedLogprobs:
    """The logprobs of the tokens of ``rows``, an array per rollout.

    ``engine`` has the stored ones, ``full`` those of the whole softmax, ``nearest`` those of what the run could sample.
    Raises HarvestError when a stored one is no finite number.
    """

    def __init__(self, rows: pl.DataFrame, truncation: Truncation, seed: int) -> None:
        self._rows = rows
        lengths = rows["completion_ids"].list.len()
        self._truncation = truncation
        masks = rows[MASK].to_list() if MASK in rows.columns else [None] * rows.height
        self._masks = [
            mask if mask and len(mask) == count else None for mask, count in zip(masks, lengths, strict=True)
        ]
        self.truncates = truncation.truncates or any(self._masks)
        self.engine: list[Array] = [np.array(values, dtype=np.float64) for values in rows["logprobs"].to_list()]
        self.full: list[Array] = [np.zeros(len(values)) for values in self.engine]
        self.nearest: list[Array] = [np.zeros(len(values)) for values in self.engine] if self.truncates else self.full
        if not all(np.isfinite(values).all() for values in self.engine):
            raise HarvestError(
                "the run stores logprobs that are no finite numbers: its engine computed wrongly. Generate it again"
            )
        self._tried = tuple(sorted({*_TEMPERATURES, truncation.divisor}))
        self._gaps = np.zeros(len(self._tried))
        ends = np.cumsum([len(values) for values in self.engine])
        chosen = np.random.default_rng(seed).permutation(ends[-1])[:_FIT_TOKENS]
        self._fitted = np.split(np.isin(np.arange(ends[-1]), chosen), ends[:-1])

    def fill(self, model: TrainerModel) -> None:
        """Recompute all. Raises HarvestError for logits that are no numbers, and as ``TrainerModel.logits`` does."""
        import torch

        ids = self._rows["completion_ids"].to_list()
        texts = [Text(*pair) for pair in zip(self._rows["prompt_ids"].to_list(), ids, strict=True)]
        for index, start, logits in model.logits(texts):
            part = slice(start, start + len(logits))
            own = torch.tensor(ids[index][part], device=logits.device)[:, None]
            masks = (self._masks[index] or [])[part]
            stated = [self._truncation.divisor]
            self.full[index][part] = full_logprobs(logits, own, stated)[0].cpu()
            if np.isnan(self.full[index][part]).any():
                raise HarvestError(
                    "the model's logits are no numbers, as after an overflow in float16. Compare a run in bfloat16"
                )
            nearest = self._logprobs(masks)
            if self.truncates:
                self.nearest[index][part] = nearest(logits, own, stated)[0].cpu()
            if (fitted := self._fitted[index][part]).any():
                places = np.flatnonzero(fitted)
                nearest = self._logprobs(masks and [masks[place] for place in places])
                found = nearest(logits[places], own[places], self._tried).double().cpu().numpy()
                self._gaps += np.minimum(np.abs(found - self.engine[index][part][places]), _WORST_GAP).sum(axis=1)

    def temperature_fit(self) -> TemperatureFit:
        """Return the temperature at which a random part of the tokens is nearest to the stored logprobs."""
        tokens = sum(int(part.sum()) for part in self._fitted)
        gaps, best = self._gaps / tokens, int(self._gaps.argmin())
        return TemperatureFit(
            tokens=tokens,
            stated=self._truncation.divisor,
            best=self._tried[best],
            gap_at_stated=float(gaps[self._tried.index(self._truncation.divisor)]),
            gap_at_best=float(gaps[best]),
            tried=self._tried,
        )

    def _logprobs(self, masks: Sequence[Sequence[int]] | None) -> Any:
        """Return the function that gives logprobs of the distribution nearest to the one that was sampled."""
        if masks:
            return partial(masked_logprobs, masks=masks)
        return partial(truncated_logprobs, truncation=self._truncation) if self._truncation.truncates else full_logprobs
