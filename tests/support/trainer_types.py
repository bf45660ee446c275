"""The types of trainers that are not installed: makes them importable, and compares them with a trainer's own source.

``tests/support/trainers/`` has the fields that an export fills and those that its trainer requires, written by hand.
"""

import ast
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

TRAINERS = Path(__file__).parent / "trainers"
TYPE_FILES = {
    "prime-rl": "prime_rl/transports/batch/types.py",
    "verl": "verl/experimental/agent_loop/agent_loop.py",
    "openrlhf": "openrlhf/trainer/ppo_utils/experience.py",
}
"""Where a target's types are, in ``trainers/`` and in the trainer's own source."""


@contextlib.contextmanager
def importable_trainers() -> Iterator[None]:
    """Let code import the trainers' types: a trainer's own if it is installed, or those of ``trainers/``."""
    before = {*sys.modules}
    sys.path.append(str(TRAINERS))
    try:
        yield
    finally:
        sys.path.remove(str(TRAINERS))
        for name in {*sys.modules} - before:
            if name.partition(".")[0] in {path.partition("/")[0] for path in TYPE_FILES.values()}:
                del sys.modules[name]


def differences(ours: str, trainers: str) -> list[str]:
    """Compare the classes of two modules, given as source: each of ``ours`` with that of the same name.

    Ours may lack fields that have a default. Reading source needs none of what the trainer imports.
    """
    found = []
    theirs = _classes(trainers)
    for name, fields in _classes(ours).items():
        known = theirs.get(name)
        if known is None:
            found.append(f"{name} is gone")
            continue
        for field in fields.keys() | known.keys():
            mine, real = fields.get(field), known.get(field)
            if mine is None and not (real or "").endswith("= ..."):
                found.append(f"{name}.{field} is required")
            elif mine is not None and mine != real:
                found.append(f"{name}.{field} is {real or 'gone'}, not {mine}")
    return sorted(found)


def _classes(source: str) -> dict[str, dict[str, str]]:
    """Return, per class, its fields as "type", or "type = ..." when there is a default."""
    return {
        node.name: {
            item.target.id: ast.unparse(item.annotation) + (" = ..." if item.value else "")
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }
