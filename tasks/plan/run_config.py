"""What the user asks for, as one frozen record, before anything is read or resolved."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from profiles.load import SettingsError, explain, load_profile
from profiles.schema import Identifier, PromptFormat, Settings
from tasks.errors import ConfigError
from tasks.plan.output_lengths import OutputLengths, parse_lengths


class Sampling(Settings):
    """How completions are sampled; part of every fingerprint."""

    temperature: float = Field(0.7, ge=0.0, le=5.0)
    """Softmax temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Nucleus sampling mass."""
    max_tokens: int = Field(512, ge=1)
    """Longest completion, in tokens."""
    samples_per_arm: int = Field(1, ge=1)
    """Completions per question and arm."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Run seed; every request's own seed is derived from it."""
    top_logprobs: int = Field(0, ge=0, le=20)
    """Most likely tokens stored per position, for comparing runs; 0 stores none."""
    lengths: OutputLengths | None = None
    """For benchmarks: ignore the model's end token and draw each completion's length; None lets the model end."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end a completion; the text is cut before them, the token ids are kept as sampled."""

    @model_validator(mode="after")
    def _greedy_is_single(self) -> "Sampling":
        if self.temperature == 0 and self.samples_per_arm > 1:
            raise ValueError(
                f"samples_per_arm is {self.samples_per_arm} at temperature 0, which gives the same completion each "
                "time. Set samples_per_arm to 1 or raise the temperature"
            )
        if self.stop and self.lengths is not None:
            raise ValueError("stop strings would end completions before their drawn lengths. Give stop or lengths")
        return self


class DatasetSource(Settings):
    """Which questions to ask."""

    path: str = Field("demo", min_length=1)
    """"demo"; a .jsonl/.json/.csv/.parquet file, compressed or not, or a pattern of such; or what ``datasets`` loads: a
    hub id such as openai/gsm8k, or a dataset's directory. Files and directories also at a URL such as s3://."""
    config: str | None = None
    """Hub configuration; openai/gsm8k defaults to main."""
    split: str = "test"
    question_column: str = Field("question", min_length=1)
    answer_column: str = Field("answer", min_length=1)
    id_column: str | None = None
    """Column with unique ids; without it, ids are made from the split and the row number."""
    questions: int | None = Field(None, ge=1)
    """Take this many questions from the start; None takes all."""
    filters: tuple[str, ...] = ()
    """Only rows that pass all of these, each COLUMN OPERATOR VALUE; see tasks.plan.row_filter."""
    shuffle_seed: int | None = Field(None, ge=0)
    """Draw the questions in a random order of this seed; None keeps the dataset's order."""
    streaming: bool = False
    """Read a hub dataset row by row, without downloading all of it."""


class RunConfig(Settings):
    """One run as asked for. ``None`` means: take the profile's value."""

    profile: str = "cpu-demo"
    """A shipped profile's name, or the path of a TOML file."""
    model: str | None = None
    """A local directory, a hub id, or "demo"."""
    arms: str | None = None
    """A shipped arm set's name, or the path of a TOML file."""
    dataset: DatasetSource = DatasetSource()
    sampling: Sampling = Sampling()
    question_batch_size: int | None = Field(None, ge=1)
    """Questions in flight per replica."""
    shard_size: int | None = Field(None, ge=1)
    """Questions per shard; chosen from the dataset's size when not given."""
    scorer: str = "gsm8k"
    prompt_format: PromptFormat | None = None
    """For every arm; None leaves it to each arm."""
    prompt_template: str | None = None
    """For every arm that is plain, ``{question}`` standing for the question."""
    chat_template_kwargs: dict[str, Any] | None = None
    """For every arm that is a chat, added to its own."""
    name: Identifier | None = None
    """Readable start of the run id."""


def build_config(values: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain values; raises ConfigError naming the first wrong one."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None


DEFAULT_TOP_LOGPROBS = 5
"""Stored when a run takes part in a comparison: enough to tell a near-tie from a real difference."""

_FIELDS = (
    "profile",
    "model",
    "arms",
    "question_batch_size",
    "shard_size",
    "scorer",
    "prompt_format",
    "name",
)
_SAMPLING = ("temperature", "top_p", "max_tokens", "samples_per_arm", "seed", "stop")
_DATASET = (
    "split",
    "question_column",
    "answer_column",
    "id_column",
    "questions",
    "filters",
    "shuffle_seed",
    "streaming",
)


def config_from_parameters(parameters: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from the flow's top-level parameters; names that are not part of it are passed over.

    Raises ConfigError naming the first wrong value.
    """
    top_logprobs = parameters.get("top_logprobs")
    if top_logprobs is None:
        compared = parameters.get("baseline") or _is_baseline(parameters.get("profile"))
        top_logprobs = DEFAULT_TOP_LOGPROBS if compared else 0
    sampling = _given(parameters, _SAMPLING)
    if parameters.get("lengths") is not None:
        sampling["lengths"] = parse_lengths(
            str(parameters["lengths"]), int(sampling.get("max_tokens", Sampling().max_tokens))
        )
    dataset = _given(parameters, _DATASET)
    dataset |= {"path": parameters["dataset"]} if parameters.get("dataset") is not None else {}
    dataset |= {"config": parameters["dataset_config"]} if parameters.get("dataset_config") is not None else {}
    return build_config(
        {
            **_given(parameters, _FIELDS),
            "prompt_template": _template(parameters.get("prompt_template")),
            "chat_template_kwargs": _template_kwargs(parameters.get("chat_template_kwargs")),
            "dataset": dataset,
            "sampling": {**sampling, "top_logprobs": top_logprobs},
        }
    )


def _is_baseline(profile: str | None) -> bool:
    """Whether a run with ``profile`` is made to be compared with; a profile that cannot be read is refused later."""
    with contextlib.suppress(SettingsError):
        return profile is not None and load_profile(profile).generation == "loop"
    return False


def _template(given: str | None) -> str | None:
    """A prompt template: the text itself, or that of a .txt file."""
    if given is None or not given.endswith(".txt"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt_template {given} cannot be read: {error}. Give a text file, or the text") from None


def _template_kwargs(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"chat_template_kwargs is {given!r}, which is not valid JSON: {error}. Give an object such as "
            '{"enable_thinking": false}'
        ) from None


def _given(parameters: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: parameters[name] for name in names if parameters.get(name) is not None}
