"""No test sleeps or names a limit in seconds: both would make it depend on the speed of the machine.

Tests wait for events with ``tests.support.patience``. Benchmarks measure time, so they may read clocks.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ALLOWED = {TESTS / "support" / "patience.py", Path(__file__)}
MODULES = sorted(
    path.relative_to(TESTS) for path in TESTS.rglob("*.py") if path not in ALLOWED and path.parent != TESTS / "bench"
)
CLOCKS = {"sleep", "monotonic", "perf_counter"}
WAITS = {"wait", "join", "result", "communicate", "wait_procs", "acquire", "recv", "select", "poll"}
"""Methods whose first number, or whose argument ``timeout``, is a limit in seconds."""
LIMITS = {"timeout", "within", "limit", "limit_s", "time_limit_s", "timeout_s", "timeout_seconds", "deadline"}


def test_no_test_names_seconds() -> None:
    assert [f"{module} {found}" for module in MODULES for found in find_clocks((TESTS / module).read_text())] == []


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(1)",
        "from time import sleep",
        "await asyncio.sleep(1)",
        "end = time.monotonic() + 5",
        "process.wait(20)",
        "process.communicate(timeout=60)",
        "future.result(timeout=2 * 30)",
        "psutil.wait_procs(processes, timeout=10)",
        "'import time; time.sleep(300)'",
        "def wait_for(subject, seconds=120): pass",
        "def wait_for(subject, *, timeout: float = 60): pass",
        "urlopen(url, timeout=5)",
        "START_SECONDS = 30",
    ],
)
def test_the_check_sees(code: str) -> None:
    assert len(list(find_clocks(code))) == 1


@pytest.mark.parametrize("code", ["process.wait()", "words.join(', ')", "patience.pause()", "wait(limit=scaled(3))"])
def test_the_check_passes(code: str) -> None:
    assert list(find_clocks(code)) == []


def find_clocks(code: str) -> Iterator[str]:
    """Yield, a line each, the clocks, sleeps and literal limits in ``code`` and in the scripts in its strings."""
    for node in ast.walk(ast.parse(code)):
        if any(_faults(node)):
            yield f"line {getattr(node, 'lineno', 0)}: {ast.unparse(node)[:100]}"


def _faults(node: ast.AST) -> Iterator[bool]:
    match node:
        case ast.Attribute(value=ast.Name(id="time" | "asyncio"), attr=name):
            yield name in CLOCKS
        case ast.ImportFrom(module="time" | "asyncio", names=names):
            yield any(alias.name in CLOCKS for alias in names)
        case ast.Constant(value=str(text)):
            yield "time.sleep(" in text
        case ast.Call(func=ast.Attribute(attr=name), args=[first, *_]) if name in WAITS and _is_number(first):
            yield True
        case ast.Call(keywords=keywords):
            yield any(keyword.arg in LIMITS and _is_number(keyword.value) for keyword in keywords)
        case ast.FunctionDef(args=arguments):
            names = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) :] if arguments.defaults else []
            pairs = [
                *zip(names, arguments.defaults, strict=True),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            yield any(
                argument.arg in LIMITS | {"seconds"} and default is not None and _is_number(default)
                for argument, default in pairs
            )
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value)
        ):
            yield (
                name.isupper()
                and name.endswith(("_SECONDS", "_S", "TIMEOUT"))
                and value is not None
                and _is_number(value)
            )


def _is_number(node: ast.expr) -> bool:
    """Tell whether an expression is made of numbers above zero only."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return not isinstance(value, bool) and value > 0
        case ast.BinOp(left=left, right=right):
            return _is_number(left) and _is_number(right)
    return False
