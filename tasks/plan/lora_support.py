"""Says whether the installed vLLM can add LoRA adapters to an architecture, from its source: vLLM is not imported."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from profiles.vllm_arguments import installed_package

_MARK = "SupportsLoRA"
"""The class in vLLM's model_executor/models/interfaces.py from which such models are derived."""
_PACKAGE = "vllm.model_executor.models."


def lacks_lora(architectures: Iterable[str]) -> bool:
    """Return whether vLLM has a model for one of the ``architectures`` and cannot add adapters to it.

    False also where that is not known: without vLLM, or for a model that it takes from elsewhere.
    """
    package = installed_package()
    if package is None:
        return False
    models = package / "model_executor" / "models"
    try:
        registry = (models / "registry.py").read_text(encoding="utf-8")
        for architecture in architectures:
            found = re.search(rf'"{re.escape(architecture)}":\s*\(\s*"(\w+)",\s*"(\w+)"', registry)
            if found is not None:
                return _is_marked(models / f"{found[1]}.py", found[2]) is False
    except (OSError, SyntaxError, UnicodeDecodeError):
        pass
    return False


def _is_marked(file: Path, name: str) -> bool | None:
    """Return whether the class ``name`` in ``file`` is derived from the mark; None when a base class is not found."""
    classes, imported = _classes(file)
    if name not in classes:
        return None
    if _MARK in classes[name]:
        return True
    answers = [_answer(file, base, classes, imported) for base in classes[name]]
    return True if True in answers else None if None in answers else False


def _answer(file: Path, base: str, classes: dict[str, list[str]], imported: dict[str, str]) -> bool | None:
    if base in classes:
        return _is_marked(file, base)
    module = imported.get(base)
    if module is None:
        return None
    return False if module == "interfaces" else _is_marked(file.with_name(f"{module}.py"), base)


@cache
def _classes(file: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the names of the bases of each class in ``file``, and the neighbour module of each imported name."""
    if not file.is_file():
        return {}, {}
    body = ast.parse(file.read_text(encoding="utf-8")).body
    classes = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in body
        if isinstance(node, ast.ClassDef)
    }
    imported = {
        alias.asname or alias.name: node.module.removeprefix(_PACKAGE)
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module and (node.level == 1 or node.module.startswith(_PACKAGE))
        for alias in node.names
    }
    return classes, imported
