"""The parameters of the flow ``collect_rollouts``: the fields of RunConfig and of FlowParameters.

The flow's signature, from which Prefect makes its form, and the options of ``harvest run`` are made from these fields,
so that each parameter is declared once.
"""

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import Field
from pydantic_core import PydanticUndefined

from profiles.settings import Settings
from tasks.comparison.verdict import DEFAULT_EPSILON, Tier
from tasks.errors import ConfigError
from tasks.plan.engine_options import read_engine_options
from tasks.plan.parameters import Parameter, parameters_of
from tasks.plan.placeholders import WITH_DATE
from tasks.plan.run_config import CONFIG_PARAMETERS, RunConfig, build_settings, config_from_parameters

_BLOCK_NAME = r"^((aws-credentials|secret)/)?[a-z0-9-]+$"

_FORM_ORDER = (
    *("profile", "model", "adapters", "dataset", "questions", "samples_per_arm"),
    *("upload", "aws_credentials_block", "baseline", "require", "epsilon"),
    *("temperature", "top_p", "top_k", "min_p", "sampling", "max_tokens", "seed", "arms"),
    *("scorer", "right_at", "engine", "question_batch_size", "shard_size"),
    *("dataset_config", "split", "question_column", "answer_column", "id_column", "filters", "shuffle_seed"),
    *("streaming", "stop", "prompt_format", "prompt_template", "chat_template_kwargs", "top_logprobs", "lengths"),
    *("checkpoints", "skip_finished", "name", "nodes", "shared", "runs_dir"),
)
"""Names of the parameters in the order of the form: first those that most runs set. All others come last."""

_Settings = TypeVar("_Settings", bound=Settings)
_Function = TypeVar("_Function", bound=Callable[..., Any])

_BlockName = Annotated[str, Field(pattern=_BLOCK_NAME)]


class FlowParameters(Settings):
    """What the flow does besides collecting the run: comparison, upload, nodes and storage."""

    upload: str | None = Field(None, title="Upload to")
    """s3://bucket/prefix or a directory; by default nothing is uploaded."""
    aws_credentials_block: Annotated[str, Field(pattern=_BLOCK_NAME)] | None = Field(
        None, title="AWS credentials block"
    )
    """Name of an AWS Credentials block of Prefect, or secret/NAME, for s3:// URLs; by default credentials come from the
    environment, a profile or a role."""
    baseline: str | None = Field(None, title="Baseline")
    """Compare with this run: its id, directory or URL, or "auto" to generate one."""
    require: Tier = Field("statistical", title="Equivalence required")
    """The weakest verdict that passes."""
    epsilon: float = Field(DEFAULT_EPSILON, title="Equivalence margin", gt=0, lt=1)
    """For statistical equivalence: mean rewards that differ by less than this count as equal."""
    checkpoints: Literal["all", "newest"] | list[str] = Field("all", title="Checkpoints")
    """What a pattern as the model means: "all" complete checkpoints, each a run of its own, or the "newest" one; a flow
    run records their directories here."""
    skip_finished: bool = Field(False, title="Skip if finished")
    """End at once, as Completed, when the run with this fingerprint is finished."""
    nodes: int = Field(1, title="Nodes", ge=1, le=64)
    """GPU nodes to generate on; more than one starts as many flow runs of generate-shards, one for each worker of
    the pool harvest-nodes."""
    shared: str | None = Field(None, title="Shared storage")
    """With several nodes: a directory or s3://bucket/prefix that all nodes reach, for unfinished work."""
    runs_dir: str = Field("runs", title="Runs directory", min_length=1)
    """Where runs are kept; under a worker, relative to its HARVEST_HOME."""


def _in_form_order(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {name: parameters[name] for name in (*_FORM_ORDER, *parameters)}


FLOW_PARAMETERS = {parameter.name: parameter for parameter in parameters_of(FlowParameters)}
PARAMETERS = _in_form_order(CONFIG_PARAMETERS | FLOW_PARAMETERS)
"""Every parameter of ``collect_rollouts`` by name, in the order of the form."""
RUN_PARAMETERS = (*CONFIG_PARAMETERS, "runs_dir")
"""Names of the parameters that define a run and say where it is kept."""
MEASURED_PARAMETERS = tuple(name for name in RUN_PARAMETERS if name != "adapters")
"""Those of a run of one policy, by which the engine is measured."""


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


def add_options(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add an option for each parameter in ``names``. The value of an option that is not given is None."""
    for name in names:
        parameter = PARAMETERS[name]
        parser.add_argument(*parameter.options, dest=name, default=None, help=_help(parameter), **_reader(parameter))


def given_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that were given as options, by name."""
    return {name: value for name in PARAMETERS if (value := getattr(options, name, None)) is not None}


class _Pair(argparse.Action):
    """Adds KEY=VALUE to the table of those that were given before."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        table = getattr(namespace, self.dest) or {}
        try:
            pair = read_engine_options([values]) or {}
        except ConfigError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        if given := table.keys() & pair.keys():
            raise argparse.ArgumentError(self, f"{given.pop()} is given twice. Give it once")
        setattr(namespace, self.dest, table | pair)


def _shown(parameter: Parameter) -> Any:
    """Return the field that gives ``parameter`` its title and description in Prefect's form.

    Prefect overwrites a field's own title and description, but keeps what the JSON schema adds to it.
    """
    dates = "; {date} is the day of the flow run, {date:%Y%m%d} the day in another format"
    with_date = parameter.name in WITH_DATE and "{date}" not in parameter.description
    description = parameter.description + (dates if with_date else "")
    return Field(json_schema_extra={"title": parameter.title, "description": description})


def _help(parameter: Parameter) -> str:
    text = parameter.description
    text = text if text[1].isupper() else text[0].lower() + text[1:]
    if isinstance(parameter.default, str | int | float) and parameter.default is not False:
        text = f"{text} (default {parameter.default})"
    if parameter.is_table or all(get_origin(kind) is list for kind in parameter.kinds()):
        text += "; may be repeated"
    return text.replace("%", "%%")


def _reader(parameter: Parameter) -> dict[str, Any]:
    """Return the arguments with which argparse reads the parameter's option."""
    kinds = parameter.kinds()
    kind = str if str in kinds else kinds[0]
    if parameter.name == "aws_credentials_block":
        return {"metavar": "NAME", "type": _block_name}
    if kind is bool:
        return {"action": "store_const", "const": True}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if parameter.is_table:
        return {"action": _Pair, "metavar": "KEY=VALUE"}
    if get_origin(kind) is list:
        item = get_args(kind)[0]
        return {"action": "append", "type": item, "metavar": "N" if item is int else "TEXT"}
    if words := [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]:
        return {"type": lambda text: text if text in words else _whole_number(text, words), "metavar": "N"}
    if kind in (int, float):
        return {"type": kind, "metavar": "N" if kind is int else "X"}
    return {"metavar": parameter.name.rpartition("_")[2].upper()}


def _whole_number(text: str, words: Sequence[str]) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give one, or {' or '.join(words)}") from None


def _block_name(text: str) -> str:
    """Return ``text``. Raises ArgumentTypeError when it cannot be the name of a block of credentials."""
    if not re.fullmatch(_BLOCK_NAME, text):
        # the text may be the secret itself, so the message does not repeat it
        raise argparse.ArgumentTypeError(
            "this is not the name of a block; give NAME (lower-case letters, digits and dashes) or secret/NAME"
        )
    return text
