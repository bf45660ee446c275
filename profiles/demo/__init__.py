"""The demo model and its data: generated word problems, and a small Qwen2 model that was trained on them."""
