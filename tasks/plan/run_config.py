"""The configuration of a run: what the user asks for, as one frozen record, before any file is read."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, WithJsonSchema, field_validator

from profiles.arm_schema import PromptFormat
from profiles.engine_settings import EngineSettings
from profiles.load import SettingsError, explain, load_profile, profile_names, short_repr
from profiles.nearest import nearest_files
from profiles.regular_files import parse_json, read_regular_text
from profiles.schema import AUTO, Identifier, QuestionBatch
from profiles.settings import RIGHT_AT, Settings
from profiles.vllm_keys import check_keys
from tasks.errors import ConfigError
from tasks.plan.dataset_limits import MOST_ROWS
from tasks.plan.engine_options import read_engine_options
from tasks.plan.output_lengths import parse_lengths
from tasks.plan.parameters import AsGiven, parameters_of
from tasks.plan.repetition_detection import parse_repetition, repetition_text
from tasks.plan.sampling import Sampling, Seed
from tasks.scoring.scorers import SCORER_CHOICES

DEFAULT_TOP_LOGPROBS = 5
"""Top logprobs that a run stores for a comparison: enough to tell a near-tie from a real difference."""

CPU_PROFILE = "cpu-demo"
"""The profile of a node without GPUs, when none is named."""

_Settings = TypeVar("_Settings", bound=Settings)

_NameWithDate = Annotated[str, Field(pattern=r"^[A-Za-z0-9{][A-Za-z0-9_.{}:%-]*$", max_length=64)]
_Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
_ProfileName = Annotated[
    str,
    WithJsonSchema(
        {
            "anyOf": [
                {"title": "Shipped", "type": "string", "enum": [AUTO, *profile_names()]},
                {"title": "TOML file", "type": "string", "pattern": r"\.toml$"},
            ]
        }
    ),
]


class DatasetSource(Settings):
    """Which questions to ask."""

    path: Annotated[str, AsGiven(name="dataset")] = Field("demo", title="Dataset", min_length=1)
    """"demo"; .jsonl/.json/.csv/.parquet files, compressed or not, or a pattern of file names; a dataset's directory;
    any of these at a URL such as s3://; or a hub id such as openai/gsm8k."""
    config: Annotated[str | None, AsGiven(name="dataset_config")] = Field(None, title="Dataset configuration")
    """Configuration of a hub dataset; by default main for openai/gsm8k."""
    split: str = Field("test", title="Split")
    """Split of the dataset."""
    question_column: str = Field("question", title="Question column", min_length=1)
    """Column of the question."""
    answer_column: str = Field("answer", title="Answer column", min_length=1)
    """Column of the answer."""
    id_column: str | None = Field(None, title="Id column")
    """Column of unique ids; by default ids are made from the split and the row number."""
    questions: Annotated[_Rows | None, AsGiven(options=("--questions", "--n-samples"))] = Field(None, title="Questions")
    """Number of questions, taken from the start; by default all."""
    filters: Annotated[tuple[str, ...], AsGiven(type=list[str] | None, default=None, options=("--filter",))] = Field(
        (), title="Filters"
    )
    """Only rows that pass COLUMN OPERATOR VALUE, with = != < <= > >= or, for a regular expression, ~ !~."""
    shuffle_seed: Seed | None = Field(None, title="Shuffle seed")
    """Seed for a random order of the questions; by default they keep the dataset's order."""
    streaming: bool = Field(False, title="Streaming")
    """Read a hub dataset row by row, without downloading all of it."""


class RunConfig(Settings):
    """One run as the user asks for it. ``None`` means that the profile or the dataset decides."""

    profile: Annotated[str, AsGiven(type=_ProfileName, default=AUTO)] = Field(CPU_PROFILE, title="Profile")
    """Hardware target and engine settings: auto for what suits the node's GPUs and the model (cpu-demo without GPUs), a
    shipped profile, or the path of a TOML file."""
    model: str | None = Field(None, title="Model")
    """A directory, a hub id or "demo"; a pattern such as checkpoints/* means every complete model that matches, each
    a run of its own; by default the profile's model."""
    adapters: Annotated[tuple[str, ...], AsGiven(type=list[str] | None, default=None, options=("--adapter",))] = Field(
        (), title="LoRA adapters"
    )
    """Directories of LoRA adapters for the model, or patterns of such; each is a run of its own beside the model's, on
    the same engines."""
    arms: str | None = Field(None, title="Arms")
    """A shipped set of arms, or the path of a TOML file; by default math8."""
    dataset: DatasetSource = DatasetSource()
    sampling: Sampling = Sampling()
    engine: Annotated[dict[str, Any] | None, AsGiven(type=dict[str, Any] | None)] = Field(None, title="Engine settings")
    """Engine settings of the profile, or any fields of vLLM's EngineArgs, as KEY=VALUE; by default the profile's."""
    question_batch_size: QuestionBatch | None = Field(None, title="Question batch size")
    """Questions in flight per replica, or auto for as many as the memory holds; by default the profile's."""
    shard_size: _Rows | None = Field(None, title="Questions per shard")
    """Questions per shard; by default chosen from the dataset's size."""
    scorer: str = Field("gsm8k", title="Scorer", min_length=1, description=SCORER_CHOICES)
    right_at: float = Field(RIGHT_AT, title="Right from")
    """Reward from which a rollout counts as right, in pass@k, votes, filters and differences."""
    prompt_format: PromptFormat | None = Field(None, title="Prompt format")
    """chat uses the model's chat template, plain gives base models text to complete; by default each arm's format."""
    prompt_template: str | None = Field(None, title="Prompt template")
    """For plain prompts: a text that contains {question}, or a .txt file with such a text."""
    chat_template_kwargs: Annotated[dict[str, Any] | None, AsGiven(type=dict[str, Any] | str | None)] = Field(
        None, title="Chat template arguments"
    )
    """Arguments for the chat template, added to those of each arm, as JSON such as {"enable_thinking": false}."""
    name: Annotated[Identifier | None, AsGiven(type=_NameWithDate | None)] = Field(None, title="Name")
    """Readable start of the run id."""

    @field_validator("engine")
    @classmethod
    def _engine_takes_it(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        # the profile checks our own settings; these need none
        own = EngineSettings.model_fields.keys() - {"vllm"}
        passed_on = {key: value for key, value in (given or {}).items() if key not in own and value is not None}
        check_keys(passed_on, own)
        return given


CONFIG_PARAMETERS = {parameter.name: parameter for parameter in parameters_of(RunConfig)}
"""The parameters of a configuration, by name."""


def build_config(values: dict[str, Any]) -> RunConfig:
    """Return a RunConfig of plain values. Raises ConfigError, which names the first wrong value."""
    return build_settings(RunConfig, values)


def build_settings(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Return a ``kind`` of plain values. Raises ConfigError, which names the first wrong value."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, kind)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def config_from_parameters(parameters: Mapping[str, Any]) -> RunConfig:
    """Return a RunConfig of parameters by name. Ignores parameters that no configuration has.

    Raises ConfigError, which names the first wrong value.
    """
    values: dict[str, Any] = {"dataset": {}, "sampling": {}}
    for parameter in CONFIG_PARAMETERS.values():
        value = parameters.get(parameter.name)
        if value is not None:
            *group, field = parameter.path
            (values[group[0]] if group else values)[field] = value
    sampling = values["sampling"]
    if "lengths" in sampling:
        sampling["lengths"] = parse_lengths(sampling["lengths"], int(sampling.get("max_tokens", Sampling().max_tokens)))
    if "repetition_detection" in sampling:
        sampling["repetition_detection"] = parse_repetition(sampling["repetition_detection"])
    if parameters.get("baseline") or _is_baseline(parameters.get("profile")):
        sampling.setdefault("top_logprobs", DEFAULT_TOP_LOGPROBS)
    values["prompt_template"] = _template(parameters.get("prompt_template"))
    values["chat_template_kwargs"] = _template_kwargs(parameters.get("chat_template_kwargs"))
    values["engine"] = read_engine_options(parameters.get("engine"))
    return build_config(values)


def parameters_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters, by name, that give the ``config`` of a config.json. Leaves out those at their default."""
    defaults = RunConfig().model_dump(mode="json")
    found: dict[str, Any] = {}
    for parameter in CONFIG_PARAMETERS.values():
        value: Any = config
        usual: Any = defaults
        for name in parameter.path:
            value, usual = value.get(name, usual[name]), usual[name]
        # what "auto" means differs between nodes
        if value != usual or parameter.name == "profile":
            found[parameter.name] = value
    if (lengths := found.get("lengths")) is not None:
        found["lengths"] = f"{lengths['distribution']}:{lengths['median']}:{lengths['sigma']!r}"
    if (repetition := found.get("repetition_detection")) is not None:
        found["repetition_detection"] = repetition_text(repetition)
    return found


def _is_baseline(profile: str | None) -> bool:
    """Return whether ``profile`` is a baseline's. False for a profile that cannot be read, which is refused later."""
    with contextlib.suppress(SettingsError):
        return profile is not None and load_profile(profile).generation == "loop"
    return False


def _template(given: str | None) -> str | None:
    """Return the prompt template: the text ``given``, or the text of the .txt file ``given``."""
    if given is None or not given.endswith(".txt"):
        return given
    try:
        return read_regular_text(Path(given))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"prompt_template {given} cannot be read: {error}.{nearest_files(Path(given))} Give a text file, or "
            "the text"
        ) from None


def _template_kwargs(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    example = 'Give an object such as {"enable_thinking": false}'
    try:
        value = parse_json(given, unique_names=True)
    except ValueError as error:
        raise ConfigError(
            f"chat_template_kwargs is {short_repr(given)}, which is not valid JSON: {error}. {example}"
        ) from None
    if value is None:
        raise ConfigError(f"chat_template_kwargs is null. {example}, or leave it out")
    return value
