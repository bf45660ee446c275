"""The options of ``harvest run`` and of other commands that are parameters of the flow."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter, ValidationError

from flows.commands.command import Decorator, given_flag
from flows.parameters import PARAMETERS, SECTIONS
from profiles.load import arms_names, profile_names, short_repr
from profiles.schema import AUTO
from tasks.plan.engine_options import read_engine_options
from tasks.plan.parameters import Parameter

_SECTION = {name: section for section, names in SECTIONS.items() for name in names}
_PLACE = {name: place for place, name in enumerate(_SECTION)}
_KNOWN: dict[str, Callable[[], list[str]]] = {
    "profile": lambda: [AUTO, *profile_names()],
    "arms": arms_names,
    "model": lambda: ["demo"],
    "dataset": lambda: ["demo"],
}
"""What the shell completes beside files."""


class Value(click.ParamType[Any]):
    """A value of the type that the parameter declares."""

    name = "value"

    def __init__(self, parameter: Parameter) -> None:
        kinds = parameter.kinds()
        self.repeated = parameter.is_table or all(get_origin(kind) is list for kind in kinds)
        self._parameter = parameter
        self._type = get_args(kinds[0])[0] if self.repeated else parameter.type
        self._words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        numbers = ["N" if kind is int else "X" for kind in (*kinds, self._type) if kind in (int, float)]
        last_word = parameter.options[0].removeprefix("--").rpartition("-")[2].upper()
        self.metavar = "KEY=VALUE" if parameter.is_table else "|".join([*numbers, *self._words]) or last_word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or self._parameter.is_table:
            return value
        try:
            return TypeAdapter(self._type).validate_python(value)
        except ValidationError as error:
            flag = param and given_flag(param, ctx)
            if self._parameter.name == "aws_credentials_block":
                # the text may be the secret itself, so the message does not repeat it
                told = "is not the name of a block; give NAME (lower-case letters, digits and dashes) or secret/NAME"
            else:
                found = [problem for problem in error.errors(include_url=False) if problem["type"] != "list_type"]
                problems = [problem["msg"][0].lower() + problem["msg"][1:] for problem in found]
                told = f"is {short_repr(value)}: {'; or '.join(dict.fromkeys(problems))}"
            raise click.UsageError(f"{flag or self._parameter.name} {told}", ctx) from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self._parameter.name == "baseline":
            return complete_runs(ctx, param, incomplete)
        return _completed((*self._words, *_KNOWN.get(self._parameter.name, list)()), incomplete)


class ParameterOption(click.Option):
    """The option of one parameter. Its value is None when it is not given."""

    def __init__(self, names: list[str], *, parameter: Parameter, usual: Any = None, **settings: Any) -> None:
        value = Value(parameter)
        super().__init__(
            names,
            default=None,
            multiple=value.repeated,
            callback=_table if parameter.is_table else _list if value.repeated else None,
            help=_help(parameter, value.repeated, usual),
            **({"is_flag": True} if parameter.kinds() == [bool] else {"type": value, "metavar": value.metavar}),
            **settings,
        )
        self.section = _SECTION[parameter.name]
        self.path = ".".join(parameter.path)


def parameter_options(names: Iterable[str], usual: Mapping[str, Any] = MappingProxyType({})) -> Decorator:
    """Return the decorator that adds an option for each parameter in ``names``, in the order of SECTIONS.

    ``usual`` has the defaults of a command that has others than ``harvest run``, for its help.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in sorted(names, key=_PLACE.__getitem__, reverse=True):
            parameter = PARAMETERS[name]
            option: dict[str, Any] = {"cls": ParameterOption, "parameter": parameter, "usual": usual.get(name)}
            function = click.option(*parameter.options, name, **option)(function)
        return function

    return decorate


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return "latest" and the ids of runs that begin with ``incomplete``, or else what the shell finds as files."""
    runs_dir = Path(ctx.params.get("runs_dir") or "runs")
    return _completed(("latest", *sorted(path.parent.name for path in runs_dir.glob("*/config.json"))), incomplete)


def given_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the ``given`` values of options that are parameters, and were given."""
    return {name: value for name in PARAMETERS if (value := given.get(name)) is not None and value is not False}


def _completed(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _list(ctx: click.Context, option: click.Parameter, values: tuple[Any, ...]) -> list[Any] | None:
    return [*values] or None


def _table(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    return read_engine_options(values) or None


def _help(parameter: Parameter, repeated: bool, usual: Any) -> str:
    text = parameter.description if usual is None else parameter.description.partition("; by default")[0]
    default = parameter.default if usual is None else usual
    text = text if text[1].isupper() else text[0].lower() + text[1:]
    if repeated:
        text += "; may be repeated"
    shown = isinstance(default, str | int | float) and default is not False
    return f"{text}  [default: {default}]" if shown else text
