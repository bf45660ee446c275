"""Which package and which room may import what, and where the heavy libraries may be imported."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("infra", "flows", "tasks", "profiles")
"""Each package may import itself and those after it."""
_DRAWING = (ROOT / "tasks" / "README.md").read_text(encoding="utf-8").partition("## The rooms")[2].split("```")[1]
ROOMS = tuple("" if name == "tasks" else name for name in re.findall(r"^(\w+)/", _DRAWING, re.MULTILINE))
"""The rooms of ``tasks/`` as the guide draws them; "" is its root. Each room may import itself and those before it."""
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
IN_ROOMS = [module for module in MODULES if module.parts[0] == "tasks" and "interpreter" not in module.parts]
REMOTE = {"tasks/files.py", "tasks/storage/upload.py", "tasks/storage/filesystems.py"}
ENGINE = {f"tasks/generation/{name}.py" for name in ("vllm_engine", "vllm_requests", "weight_reload")}
RAY = {"tasks/peers/ray_data.py", "tasks/generation/ray_group.py"} | {
    f"tasks/fleet/ray_{name}.py" for name in ("cluster", "placement")
}
ALLOWED = {
    "prefect": lambda module: module.startswith("flows/"),
    "vllm": lambda module: module in ENGINE or module.startswith("infra/"),
    "s3fs": lambda module: module in REMOTE,
    "fsspec": lambda module: module in REMOTE,
    "aiohttp": lambda module: module == "tasks/peers/vllm_serve.py",
    "datatrove": lambda module: module == "tasks/peers/datatrove_runner.py",
    "ray": lambda module: module in RAY,
    "tensorboardX": lambda module: module == "flows/reporting/tracker_child.py",
    "wandb": lambda module: module == "flows/reporting/tracker_child.py",
}

PRINTING = {
    "flows/console.py",
    "flows/terminal.py",
    # what they print goes to the log of the process that started them, or is ours alone
    "flows/server/deadline.py",
    "flows/server/interruption.py",
    "flows/server/server_loss.py",
    "tasks/generation/engine_watch.py",
    "tasks/generation/reference_loops.py",
    "tasks/generation/replica.py",
    "tasks/node/gpu_smoke.py",
    "tasks/subprocess_call.py",
}
_PRINTS = re.compile(r"(?<![.\w])print\(|\bsys\.std(?:out|err)\.(?:write|buffer)|\bConsole\(")


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def room_of(dotted: str) -> str:
    """The room of a module of ``tasks``, or "" for its root."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def imported_files(module: Path) -> set[Path]:
    """The project's own files that a file imports."""
    candidates = {Path(*name.split(".")) for name in imported_modules(ROOT / module)}
    return {path.with_suffix(".py") for path in candidates} & set(MODULES)


def test_packages_import_only_downwards() -> None:
    found = []
    for module in MODULES:
        banned = {"tests", *PACKAGES[: PACKAGES.index(module.parts[0])]}
        imported = {name.partition(".")[0] for name in imported_modules(ROOT / module)}
        found += [f"{module} imports {name}" for name in sorted(imported & banned)]
    assert not found


def test_rooms_import_only_rooms_before_them() -> None:
    found = []
    for module in IN_ROOMS:
        later = ROOMS[ROOMS.index(room_of(".".join(module.with_suffix("").parts))) + 1 :]
        imported = [name for name in imported_modules(ROOT / module) if name.startswith("tasks.")]
        found += [f"{module} imports {name}" for name in imported if room_of(name) in later]
    assert not found


def test_every_folder_of_tasks_is_a_room() -> None:
    folders = {module.parts[1] for module in IN_ROOMS if len(module.parts) > 2}
    assert folders == set(ROOMS) - {""}


def test_no_imports_in_a_circle() -> None:
    imports = {module: imported_files(module) - {module} for module in MODULES}
    while leaves := {module for module, needs in imports.items() if not needs & imports.keys()}:
        imports = {module: needs for module, needs in imports.items() if module not in leaves}
    assert not imports, sorted(map(str, imports))


def test_heavy_libraries_only_in_their_places() -> None:
    found = []
    for module in MODULES:
        imported = {name.partition(".")[0] for name in imported_modules(ROOT / module)}
        found += [f"{module} imports {name}" for name in imported & ALLOWED.keys() if not ALLOWED[name](str(module))]
    assert not found


def test_only_few_modules_print() -> None:
    silent = [module for module in MODULES if module.parts[0] in ("flows", "tasks") and str(module) not in PRINTING]
    printing = [str(module) for module in silent if _PRINTS.search((ROOT / module).read_text(encoding="utf-8"))]
    assert not printing, "use flows/terminal.py, flows/console.py"


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
        "import contextlib, io\n"
        "from flows.commands.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "heavy = {'prefect', 'vllm', 'torch', 'polars', 'datasets', 'transformers', 'pydantic', 's3fs', 'rich'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_help_of_a_command_needs_no_polars() -> None:
    script = (
        "import contextlib, sys\n"
        "from flows.commands.cli import COMMANDS, main\n"
        "for name in [name for commands in COMMANDS.values() for name in commands]:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        "sys.exit(', '.join(sorted({'prefect', 'vllm', 'torch', 'polars', 'scipy'} & set(sys.modules))) or 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
