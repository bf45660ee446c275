"""The demo model's tokenizer without transformers, whose import is most of what the start of a fake engine takes."""

import filecmp
import functools
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from profiles.load import DEMO_MODEL

_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@functools.cache
def _compiled(template: str) -> Template:
    """Compiled apart from the tokenizer, which is copied."""
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)


class LightTokenizer:
    """Does what ``ChatTokenizer`` asks of a tokenizer."""

    def __init__(self, model: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.chat_template = (model / "chat_template.jinja").read_text()

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def apply_chat_template(self, chats: Any, *, tokenize: bool, return_dict: bool, **variables: Any) -> Any:
        assert not return_dict
        if isinstance(chats[0], list):
            return [self.apply_chat_template(chat, tokenize=tokenize, return_dict=False, **variables) for chat in chats]
        text = _compiled(self.chat_template).render(messages=chats, **variables)
        return self(text, add_special_tokens=False)["input_ids"] if tokenize else text

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


class _Module(ModuleType):
    """Stands in for transformers. A model with files of its own gets the tokenizer that transformers makes."""

    PreTrainedTokenizerBase = LightTokenizer

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(model: str, *, trust_remote_code: bool) -> Any:
            if filecmp.cmpfiles(model, DEMO_MODEL, _FILES, shallow=False)[0] != list(_FILES):
                del sys.modules["transformers"]
                from transformers import AutoTokenizer

                return AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
            return LightTokenizer(Path(model))


def spare_transformers() -> None:
    """Let this process do without transformers, and without torch, which transformers would import for seconds."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    sys.modules["transformers"] = stand_in = _Module("transformers")
    # other libraries ask whether there is one
    stand_in.__spec__ = ModuleSpec("transformers", None)
