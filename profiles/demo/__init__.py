"""The demo model and its data: generated word problems, and a small Qwen2 model trained on them."""
