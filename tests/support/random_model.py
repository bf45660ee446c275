"""A randomly initialised Qwen2 of 26 million parameters with the demo model's tokenizer: large enough that engine
steps, not Python, take the time, and that bfloat16 rounding changes tokens.

``python -m tests.support.random_model DIR``
"""

import shutil
import sys
from pathlib import Path

from profiles.load import DEMO_MODEL

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
LOGIT_SCALE = 0.2
"""Standard deviation of the output weights: logits then reach 14, and few tokens are likely, as in a trained model."""


def make_random_model(directory: Path, *, seed: int = 0) -> Path:
    """Write the model to ``directory`` and return it; the same seed gives the same weights."""
    import torch
    from transformers import AutoConfig, Qwen2ForCausalLM

    demo = AutoConfig.from_pretrained(str(DEMO_MODEL))
    demo.update(
        {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "layer_types": ["full_attention"] * 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
        }
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(demo)
    torch.nn.init.normal_(model.lm_head.weight, std=LOGIT_SCALE)
    model.save_pretrained(directory)
    for name in TOKENIZER_FILES:
        if (DEMO_MODEL / name).exists():
            shutil.copy(DEMO_MODEL / name, directory / name)
    return directory


if __name__ == "__main__":
    print(make_random_model(Path(sys.argv[1])))
