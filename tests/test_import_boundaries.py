"""Which package may import what: ``infra -> flows -> tasks -> profiles``, and the heavy libraries in few places."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT) for package in ("flows", "tasks", "profiles") for path in (ROOT / package).rglob("*.py")
)
BANNED_PACKAGES = {
    "tasks": {"flows", "infra", "tests"},
    "profiles": {"flows", "tasks", "infra", "tests"},
    "flows": {"infra", "tests"},
}
REMOTE = {"tasks/store.py", "tasks/upload.py", "tasks/remote.py"}
ALLOWED = {
    "prefect": lambda module: module.startswith("flows/"),
    "vllm": lambda module: module == "tasks/engine.py",
    "s3fs": lambda module: module in REMOTE,
    "fsspec": lambda module: module in REMOTE,
}


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_only_downwards(module: Path) -> None:
    assert not imported_packages(ROOT / module) & BANNED_PACKAGES[module.parts[0]]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_heavy_libraries_only_in_their_places(module: Path) -> None:
    imported = imported_packages(ROOT / module)
    assert not {name for name, allowed in ALLOWED.items() if name in imported and not allowed(module.as_posix())}


def test_tasks_import_without_prefect_vllm_and_s3() -> None:
    modules = [module.with_suffix("").as_posix().replace("/", ".") for module in MODULES if module.parts[0] == "tasks"]
    remote = {name.removesuffix(".py").replace("/", ".") for name in REMOTE}
    script = (
        "import importlib, sys\n"
        "for name in ('prefect', 'vllm', 's3fs'): sys.modules[name] = None\n"
        f"for name in {[name for name in modules if name not in remote and not name.endswith('__init__')]!r}:\n"
        "    importlib.import_module(name)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_help_needs_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from flows.cli import build_parser\n"
        "build_parser().format_help()\n"
        "heavy = {'prefect', 'vllm', 'torch', 'polars', 'datasets', 'transformers', 'pydantic', 's3fs', 'rich'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
