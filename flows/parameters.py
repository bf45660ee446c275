"""The parameters of the flow ``collect_rollouts``: the fields of RunConfig and of FlowParameters.

The flow's signature, from which Prefect makes its form, and the options of ``harvest run`` are made from these fields,
so that each parameter is declared once.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticUndefined

from flows.reporting.tracker_targets import TargetText
from profiles.settings import MOST_NODES, Settings
from tasks.comparison.verdict import DEFAULT_EPSILON, Tier
from tasks.plan.parameters import AsGiven, Parameter, parameters_of
from tasks.plan.placeholders import WITH_DATE
from tasks.plan.run_config import CONFIG_PARAMETERS, RunConfig, build_settings, config_from_parameters
from tasks.plan.sampling import STOPPING_FIELDS

_BLOCK_NAME = r"^((aws-credentials|secret)/)?[a-z0-9-]+$"

_FIRST = ("profile", "model", "dataset", "questions", "samples_per_arm", "max_tokens")
"""The parameters that most runs set come first in the form."""

SECTIONS = {
    "What to ask": (
        *("model", "adapters", "checkpoints", "dataset", "dataset_config", "split", "questions", "filters"),
        *("shuffle_seed", "streaming", "question_column", "answer_column", "id_column"),
        *("arms", "prompt_format", "prompt_template", "chat_template_kwargs"),
    ),
    "How to sample": (
        *(
            "samples_per_arm",
            "max_samples_per_arm",
            "sample_until",
            "wave_size",
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "sampling",
            "seed",
            "stop",
        ),
        *("stop_token_ids", "bad_words", "min_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("repetition_detection", "lengths"),
    ),
    "Where to run": ("profile", "engine", "question_batch_size", "forget_oom_rung", "nodes", "ray"),
    "Checks": ("scorer", "right_at", "baseline", "require", "epsilon", "top_logprobs"),
    "Output": ("runs_dir", "name", "upload", "aws_credentials_block", "log_to", "sampling_mask", "routed_experts"),
    "More": ("shard_size", "skip_finished"),
}
"""Every parameter, in the sections and the order of ``harvest run --help`` and, but for the first, of the form."""

_SECTION_OF = {name: section for section, names in SECTIONS.items() for name in names}

_Settings = TypeVar("_Settings", bound=Settings)
_Function = TypeVar("_Function", bound=Callable[..., Any])


class FlowParameters(Settings):
    """What the flow does besides collecting the run: comparison, upload and nodes."""

    upload: str | None = Field(None, title="Upload to")
    """s3://bucket/prefix or a directory; by default nothing is uploaded."""
    aws_credentials_block: Annotated[str, Field(pattern=_BLOCK_NAME)] | None = Field(
        None, title="AWS credentials block"
    )
    """Name of an AWS Credentials block of Prefect, or secret/NAME, for s3:// URLs; by default credentials come from the
    environment, a profile or a role."""
    log_to: Annotated[
        tuple[TargetText, ...],
        BeforeValidator(lambda given: given or ()),
        AsGiven(type=list[TargetText] | None, default=None),
    ] = Field((), title="Log to")
    """Follow the run in wandb:PROJECT, or in TensorBoard: tensorboard for the run's directory, tensorboard:DIRECTORY
    for another."""
    baseline: str | None = Field(None, title="Baseline")
    """Compare with this run: its id or how it begins, latest, its directory or URL, or "auto" to generate one."""
    require: Tier = Field("statistical", title="Equivalence required")
    """The weakest verdict that passes."""
    epsilon: float = Field(DEFAULT_EPSILON, title="Equivalence margin", gt=0, lt=1)
    """For statistical equivalence: mean rewards that differ by less than this count as equal."""
    checkpoints: Literal["all", "newest"] | list[str] = Field("all", title="Checkpoints")
    """What a pattern as the model means: "all" complete checkpoints, each a run of its own, or the "newest" one; a flow
    run records their directories here."""
    skip_finished: bool = Field(False, title="Skip if finished")
    """End at once, as Completed, when the run with this fingerprint is finished."""
    forget_oom_rung: bool = Field(False, title="Forget OOM rung")
    """Start with the profile's full batch, also after an earlier run ran out of memory."""
    nodes: int = Field(1, title="Nodes", ge=1, le=MOST_NODES)
    """Nodes of a Ray cluster to generate on, each with the profile's GPUs; fewer do until others join."""
    ray: str | None = Field(None, title="Ray cluster", min_length=1)
    """With nodes: HOST:PORT of the cluster's head, or "auto" for the one that the machine of the flow is part of; by
    default RAY_ADDRESS, else a Ray on that machine alone."""
    runs_dir: str = Field("runs", title="Runs directory", min_length=1)
    """Where runs are kept; under a worker, relative to its HARVEST_HOME."""


FLOW_PARAMETERS = {parameter.name: parameter for parameter in parameters_of(FlowParameters)}
_DECLARED = CONFIG_PARAMETERS | FLOW_PARAMETERS
PARAMETERS = {name: _DECLARED[name] for name in (*_FIRST, *itertools.chain(*SECTIONS.values()), *_DECLARED)}
"""Every parameter of ``collect_rollouts`` by name, in the order of the form."""
BY_HAND_PARAMETERS = tuple(
    replace(
        each,
        type=Annotated[str, Field(min_length=1)],
        default=PydanticUndefined,
        description=each.description.partition("; by default")[0],
    )
    if each.name == "model"
    else each
    for each in PARAMETERS.values()
)
"""Those of a deployment in whose form the model must be filled in."""
RUN_PARAMETERS = (*CONFIG_PARAMETERS, "runs_dir")
"""Names of the parameters that define a run and say where it is kept."""
MEASURED_PARAMETERS = tuple(name for name in RUN_PARAMETERS if name not in ("adapters", *STOPPING_FIELDS))
"""Those of a run of one policy and a fixed number of samples, by which the engine is measured."""


def takes(parameters: Sequence[Parameter]) -> Callable[[_Function], _Function]:
    """Return a decorator that gives a function of ``**keywords`` the signature from which Prefect makes its form."""

    def decorate(function: _Function) -> _Function:
        returns = inspect.signature(function).return_annotation
        required = any(item.default is PydanticUndefined for item in parameters)
        # Prefect passes a parameter that has no default by position, which ``function`` cannot take
        kind = inspect.Parameter.KEYWORD_ONLY if required else inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = [
            inspect.Parameter(
                item.name,
                kind,
                default=inspect.Parameter.empty if item.default is PydanticUndefined else item.default,
                annotation=Annotated[item.type, _shown(item)],
            )
            for item in parameters
        ]
        function.__signature__ = inspect.Signature(signature, return_annotation=returns)  # type: ignore[attr-defined]  # read by inspect
        return function

    return decorate


def chosen(kind: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Return the record ``kind``, made from those of the ``given`` parameters that it declares."""
    return kind.model_validate({name: given[name] for name in kind.model_fields})


def run_config(given: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that the ``given`` parameters ask for, with profile "auto" if they name none.

    Raises ConfigError, which names the first wrong value.
    """
    return config_from_parameters({"profile": PARAMETERS["profile"].default, **given})


def flow_parameters(given: Mapping[str, Any]) -> FlowParameters:
    """Return what the ``given`` parameters ask of the flow. Raises ConfigError, which names the first wrong value."""
    values = {name: value for name in FlowParameters.model_fields if (value := given.get(name)) is not None}
    return build_settings(FlowParameters, values)


def _shown(parameter: Parameter) -> Any:
    """Return the field that gives ``parameter`` its title and description in Prefect's form.

    The form has no sections, so the titles after the first few begin with theirs. Prefect overwrites a field's own
    title and description, but keeps what the JSON schema adds to it.
    """
    dates = "; {date} is the day of the flow run, {date:%Y%m%d} the day in another format"
    with_date = parameter.name in WITH_DATE and "{date}" not in parameter.description
    description = parameter.description + (dates if with_date else "")
    section = "" if parameter.name in _FIRST else _SECTION_OF.get(parameter.name, "")
    title = f"{section}: {parameter.title}" if section else parameter.title
    return Field(json_schema_extra={"title": title, "description": description})
