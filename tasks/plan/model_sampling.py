"""What a model's own generation_config.json says about sampling, for ``--sampling model``.

vLLM takes only the end tokens from that file by itself: requests of this project state all that is sampled by.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.load import short_repr
from tasks.errors import ConfigError
from tasks.plan.model_config import read_model_object
from tasks.plan.run_config import RunConfig, build_settings
from tasks.plan.sampling import FROM_MODEL, Sampling

FILE = "generation_config.json"
UNSTATED_TEMPERATURE = 1.0
"""vLLM's own, and that of Hugging Face, where the file has none."""


def with_model_sampling(config: RunConfig, model_path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Return ``config`` with the model's own sampling where it asks for that, and what was taken, by name.

    A field that the user stated stays. The result names no source: its values say all, whatever the file becomes.
    Raises ConfigError, which names the file.
    """
    sampling = config.sampling
    if sampling.source is None:
        return config, {}
    path = model_path / FILE
    said = read_model_object(path, missing="leave out --sampling model, and state --temperature, --top-p or others")
    own = _own(said, path)
    taken = {name: value for name, value in own.items() if name not in sampling.model_fields_set}
    values = sampling.model_dump(exclude={"source"}) | taken
    try:
        return config.model_copy(update={"sampling": build_settings(Sampling, values)}), taken
    except ConfigError as error:
        raise ConfigError(
            f"{error}. With sampling model, {_told(taken)} come from {path}; an option of your own wins over the file"
        ) from None


def told_sampling(taken: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentence that says what a run took from its model; none when it took nothing."""
    return (f"sampling of the model's {FILE}: {_told(taken)}",) if taken else ()


def _own(said: Mapping[str, Any], path: Path) -> dict[str, Any]:
    own: dict[str, Any] = {"temperature": UNSTATED_TEMPERATURE}
    for name in FROM_MODEL:
        if (value := said.get(name)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{path} has {name} {short_repr(value)}; it must be a number. Correct the file")
        own[name] = int(value) if name == "top_k" and value == int(value) else value
    # not do_sample: the model's authors decode greedily, and the other values mean nothing
    return {"temperature": 0.0} if said.get("do_sample") is False else own


def _told(taken: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in taken.items())
