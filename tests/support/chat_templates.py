"""The demo model with another chat template, for tests of what templates of others do."""

import json
import shutil
from pathlib import Path

from profiles.load import DEMO_MODEL

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
NO_SYSTEM = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}")
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
THINKS = CHATML + "{{ '<think>\n' }}"
"""A line break that ends the text of a template is left out."""


def model_with(template: str, directory: Path) -> Path:
    """Write the demo model with the chat template ``template`` to ``directory`` and return it."""
    shutil.copytree(DEMO_MODEL, directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


def with_special_tokens(model: Path, *tokens: str) -> Path:
    """Make ``tokens`` special tokens of the tokenizer in ``model``, as which they do not show in completions."""
    path = model / "tokenizer.json"
    value = json.loads(path.read_text())
    first = 1 + max(token["id"] for token in value["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for number, content in enumerate(tokens):
        value["added_tokens"].append({"id": first + number, "content": content, "special": True, **flags})
    path.write_text(json.dumps(value))
    return model
