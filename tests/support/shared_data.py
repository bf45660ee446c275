"""Public data sets that may lie beside a checkout. Tests that read a missing one are skipped."""

import json
from pathlib import Path
from typing import Literal

import pytest

_SHARED = Path(__file__).parents[3] / "shared" / "data"


def gsm8k_path(split: Literal["train", "test"]) -> Path:
    """GSM8K's ``split`` as JSON lines with ``question`` and ``answer``; skips the calling test when it is absent."""
    path = _SHARED / "gsm8k" / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"GSM8K {split} is not at {path}")
    return path


def gsm8k_rows(split: Literal["train", "test"]) -> list[dict[str, str]]:
    """Rows of ``split``, in order."""
    with gsm8k_path(split).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
