"""Whether a model and a profile can do what the sampling asks for; told before an engine starts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.plan.model_config import read_model_config, text_config
from tasks.plan.model_shape import EXPERT_COUNTS
from tasks.plan.sampling import Sampling

_WHY_NOT_ON_CPU = (
    "vLLM returns them only from its second model runner, which needs Triton, and its CPU backend has none. Use a GPU "
    "profile"
)


def check_sampling(sampling: Sampling, profile: Profile, model_path: Path) -> None:
    """Raise ConfigError when the model or the profile's engine cannot do what ``sampling`` asks for."""
    config = read_model_config(model_path)
    _check_stop_tokens(sampling, config, model_path)
    if sampling.bad_words:
        _check_bad_words(sampling.bad_words, _encoder(model_path, profile), model_path)
    for name in ("sampling_mask", "routed_experts"):
        on_cpu = profile.engine.backend == "vllm" and profile.expect.device == "cpu"
        if getattr(sampling, name) and on_cpu:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{name} cannot be had under profile {profile.name}: {_WHY_NOT_ON_CPU}, or leave out {option}"
            )
    if sampling.routed_experts:
        _check_experts(config, profile, model_path)


def _check_stop_tokens(sampling: Sampling, config: Mapping[str, Any], model_path: Path) -> None:
    vocabulary = text_config(config).get("vocab_size")
    if not isinstance(vocabulary, int):
        return
    if outside := [token for token in sampling.stop_token_ids if token >= vocabulary]:
        raise ConfigError(
            f"stop_token_ids has {', '.join(map(str, outside))}, but the vocabulary of {model_path} has {vocabulary:,} "
            f"tokens. Give ids from 0 to {vocabulary - 1}"
        )


def _check_bad_words(words: tuple[str, ...], encode: Callable[[str], list[int]], model_path: Path) -> None:
    # vLLM looks for the word at the start of a text, without the spaces before it
    for word in words:
        if not encode(word.lstrip()):
            raise ConfigError(
                f"bad_words has {word!r}, of which the tokenizer of {model_path} makes no token. Leave it out"
            )


def _check_experts(config: Mapping[str, Any], profile: Profile, model_path: Path) -> None:
    if not any(text_config(config).get(name) for name in EXPERT_COUNTS):
        raise ConfigError(
            f"routed_experts needs a mixture of experts, and {model_path} is a dense model: its config.json names no "
            "number of experts. Leave out --routed-experts"
        )
    if profile.engine.enable_prefix_caching is False:
        raise ConfigError(
            f"routed_experts needs prefix caching, which profile {profile.name} turns off. Set enable_prefix_caching = "
            "true, or leave out --routed-experts"
        )


def _encoder(model_path: Path, profile: Profile) -> Callable[[str], list[int]]:
    file = model_path / "tokenizer.json"
    if file.is_file():
        # takes milliseconds, where transformers takes seconds
        from tokenizers import Tokenizer

        try:
            fast: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no narrower type
            raise ConfigError(f"{file} cannot be read: {error}. Download the model's tokenizer files again") from None
        return lambda text: list(fast.encode(text, add_special_tokens=False).ids)
    from tasks.plan.prompts import ChatTokenizer

    return ChatTokenizer(model_path, trust_remote_code=profile.engine.trust_remote_code).encode_word
