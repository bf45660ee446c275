"""Read the parameters of a run from the fields of a Settings class.

A field has a title, bounds, a default and a docstring. Prefect's form, the options of ``harvest run`` and config.json
are made from the fields, so that each parameter is declared once.
"""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from profiles.settings import Settings
from tasks.plan.engine_options import engine_options_text


@dataclass(frozen=True, kw_only=True)
class AsGiven:
    """How users give a field, if that differs from how the configuration stores it. Put it into ``Annotated``."""

    name: str | None = None
    type: Any = None
    """The type with its bounds, as an annotation."""
    default: Any = ...
    options: tuple[str, ...] | None = None
    """Options of the command line; None means --NAME with dashes."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter as users give it."""

    name: str
    title: str
    description: str
    """One line, with the unit."""
    type: Any
    """The type with its bounds, as an annotation."""
    default: Any
    """``PydanticUndefined`` for a parameter that must be given."""
    options: tuple[str, ...]
    path: tuple[str, ...]
    """Names of the fields that lead to its value in the Settings class."""

    def kinds(self) -> list[Any]:
        """Return the plain types of a value, without bounds and None: bool, int, float, str, list[str], a Literal."""
        return [kind for kind in _alternatives(self.type) if kind is not type(None)]

    @property
    def is_table(self) -> bool:
        """Whether the command line gives it as KEY=VALUE, once for each key."""
        return all(get_origin(kind) is dict for kind in self.kinds())


def parameters_of(kind: type[Settings], path: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """Yield the parameters that ``kind`` declares, in order, including those of nested Settings."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from parameters_of(field.annotation, (*path, name))
        else:
            yield _parameter(name, field, (*path, name))


def as_options(values: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> list[str]:
    """Return ``values``, by parameter name, as arguments of ``harvest run``. Leaves out None and False."""
    arguments: list[str] = []
    for name, value in values.items():
        option = parameters[name].options[0]
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            if isinstance(value, dict) and parameters[name].is_table:
                value = engine_options_text(value)
            for item in value if isinstance(value, list) else [value]:
                arguments += [option, json.dumps(item) if isinstance(item, dict) else str(item)]
    return arguments


def _parameter(name: str, field: FieldInfo, path: tuple[str, ...]) -> Parameter:
    given = next((mark for mark in field.metadata if isinstance(mark, AsGiven)), AsGiven())
    bounds = [mark for mark in field.metadata if not isinstance(mark, AsGiven)]
    name = given.name or name
    return Parameter(
        name=name,
        title=field.title or name,
        description=" ".join((field.description or "").split()).removesuffix("."),
        type=given.type or (Annotated[(field.annotation, *bounds)] if bounds else field.annotation),
        default=field.default if given.default is ... else given.default,
        options=given.options or (f"--{name.replace('_', '-')}",),
        path=path,
    )


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the plain types that a value may have, without their bounds."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for alternative in get_args(annotation):
            yield from _alternatives(alternative)
    else:
        yield annotation
