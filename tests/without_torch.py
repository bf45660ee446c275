"""Hides torch from a process whose engine is a fake: transformers would import it for seconds, to read a tokenizer."""

import sys

sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # which is how Python marks what cannot be imported
