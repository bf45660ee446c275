"""Memory that runs out once inside vLLM's engine core, in whichever process it runs.

vLLM calls the class as one that changes logits. It finds it by an entry point, which a test writes.
"""

import os
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor


class HungryLogits(LogitsProcessor):
    """Asks for a pebibyte at the first step that samples, and makes the file ``HUNGRY_MARKER``; then asks no more."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._marker = Path(os.environ["HUNGRY_MARKER"])

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None: ...

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._marker.exists():
            self._marker.touch()
            torch.empty(2**50, dtype=torch.uint8)
        return logits
