"""The distribution that tokens were sampled from: logits divided by the temperature, and truncated as vLLM does it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.plan.sampling import truncated_by

SAMPLED_BY = ("temperature", "top_p", "top_k", "min_p")
"""The settings that make a ``Truncation``."""


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """How a run samples. At temperature 0 nothing is truncated, and logprobs are those of temperature 1, as in vLLM."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    """0 for all tokens."""
    min_p: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Truncation":
        """Return that of a run's sampling settings; None and a top_k of -1 mean that a setting is off."""
        return cls(
            temperature=float(settings["temperature"]),
            top_p=float(settings.get("top_p") or 1.0),
            top_k=max(0, int(settings.get("top_k") or 0)),
            min_p=float(settings.get("min_p") or 0.0),
        )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def divisor(self) -> float:
        """What the logits are divided by."""
        return self.temperature or 1.0

    @property
    def truncates(self) -> bool:
        """Whether some tokens cannot be sampled."""
        return bool(truncated_by(asdict(self)))

    def __str__(self) -> str:
        return ", ".join(truncated_by(asdict(self)))


def full_logprobs(logits: Any, ids: Any, temperatures: Sequence[float]) -> Any:
    """Return the logprobs of ``ids`` under the whole softmax at each temperature, of shape (temperatures, tokens).

    ``logits`` are float32 of shape (tokens, vocabulary), ``ids`` of shape (tokens, 1).
    """
    import torch

    own = logits.gather(1, ids)[:, 0]
    return torch.stack([own / value - (logits / value).logsumexp(1) for value in temperatures])


def truncated_logprobs(logits: Any, ids: Any, temperatures: Sequence[float], truncation: Truncation) -> Any:
    """Return the same of what ``truncation`` leaves at each temperature, -inf for a token that it cuts off.

    The order is that of vLLM's sampler: min_p, then top_k, then top_p of what is left.
    """
    import torch

    descending, order = logits.sort(dim=1, descending=True)
    rank = (order == ids).int().argmax(dim=1, keepdim=True)
    places = torch.arange(logits.shape[1], device=logits.device)
    found = []
    for temperature in temperatures:
        scaled = descending / temperature
        if truncation.min_p:
            probabilities = scaled.softmax(1)
            scaled = scaled.masked_fill(probabilities < truncation.min_p * probabilities[:, :1], -torch.inf)
        if truncation.top_k:
            # tokens as likely as the last one of the k stay
            last = scaled[:, min(truncation.top_k, len(places)) - 1 :][:, :1]
            scaled = scaled.masked_fill(scaled < last, -torch.inf)
        if truncation.top_p < 1:
            probabilities = scaled.softmax(1)
            before = probabilities.cumsum(1) - probabilities
            scaled = scaled.masked_fill((before >= truncation.top_p) & (places > 0), -torch.inf)
        found.append(scaled.gather(1, rank)[:, 0] - scaled.logsumexp(1))
    return torch.stack(found)


def masked_logprobs(logits: Any, ids: Any, temperatures: Sequence[float], masks: Sequence[Sequence[int]]) -> Any:
    """Return the same of the token ids that the engine could sample, which a stored mask lists for each token."""
    import torch

    kept = torch.full_like(logits, -torch.inf)
    for row, mask in enumerate(masks):
        chosen = torch.as_tensor(list(mask), dtype=torch.long, device=logits.device)
        kept[row, chosen] = logits[row, chosen]
    return full_logprobs(kept, ids, temperatures)
