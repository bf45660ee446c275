"""Runs in a process of its own, as a script: imports a scorer of the user, and calls it for what it is sent.

It imports nothing of ours, so that no name of ours (``tasks``, ``tests``) takes the place of the user's. Messages are
JSON. The first one out describes the function, or says what is wrong with it. Each one in has an ``id``, ``arguments``
by name, and ``rows``, their number for a function of several; the answer has that ``id`` and ``results``, or ``error``.
"""

import asyncio
import collections.abc
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import signal
import struct
import sys
import threading
import traceback
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

OURS = ("flows", "infra", "profiles", "tasks", "tests")
LONGEST_BACKOFF_S = 30.0
_SEND = threading.Lock()
_BEGAN = os.getpid()


class WrongScorer(Exception):
    """What is wrong with the user's module or function."""


def main(fd: str, parent_pid: str, place: str, name: str) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent_pid):
        return
    connection = Connection(int(fd))
    try:
        module = imported(place)
        function = find(module, name)
        described = describe(module, function)
    except BaseException as error:
        wrong = isinstance(error, WrongScorer)
        send(connection, {"wrong": str(error)} if wrong else {"wrong": told(error), "trace": where(error)})
        return
    send(connection, described)
    serve = serve_async if described["is_async"] else serve_sync
    serve(connection, functools.partial(call, function, described))


def imported(place: str) -> types.ModuleType:
    try:
        return load(place)
    except BaseException as error:
        at = f", at {where(error)}" if where(error) else ""
        is_missing = isinstance(error, ImportError)
        remedy = "Install what it needs, or run from the folder that holds it" if is_missing else "Fix the module"
        raise WrongScorer(f"module {Path(place).name!r} cannot be imported ({told(error)}{at}). {remedy}") from None


def load(place: str) -> types.ModuleType:
    """Import the file or the module at ``place``: first from the file's directory, then from the working directory."""
    path = Path(place)
    folders = [str(Path.cwd())]
    if place.endswith(".py"):
        folders.insert(0, str(path.parent))
    sys.path[:0] = folders
    for ours in OURS:
        # a directory without __init__.py would not be found before a package of ours
        found = next((Path(folder, ours) for folder in folders if Path(folder, ours).is_dir()), None)
        if found is not None and not (found / "__init__.py").exists():
            sys.modules[ours] = package = types.ModuleType(ours)
            package.__path__ = [str(found)]
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise WrongScorer(f"{place} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as for dataclasses and pickle
    # not from a .pyc, which does not tell two versions of one second and one size apart
    exec(compile(path.read_bytes(), place, "exec", dont_inherit=True), module.__dict__)
    return module


def find(module: types.ModuleType, name: str) -> Any:
    found = getattr(module, name, None)
    if callable(found):
        return found
    what = "is not callable" if hasattr(module, name) else "does not exist"
    here = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    has = f"; it has {', '.join(here)}" if here else ""
    raise WrongScorer(
        f"{name!r} {what} in {getattr(module, '__file__', None) or module.__name__}{has}. Name a function"
    )


def describe(module: types.ModuleType, function: Any) -> dict[str, Any]:
    """How the function wants to be called, and what its module says of it."""
    parameters = inspect.signature(function).parameters
    kinds = {name: item.kind for name, item in parameters.items()}
    named = [name for name, kind in kinds.items() if kind not in (_ALL_POSITIONAL, _ALL_NAMED)]
    if "solution_str" in named:
        form = "verl"
    elif "solution_strs" in named:
        form = "verl_batch"
    elif "completions" in named:
        form = "batch" if any(name.endswith("s") and name[:-1] in _TEXTS for name in named) else "trl"
    elif "completion" in named:
        form = "row"
    elif _binds_three(function):
        form = "positional"
    else:
        raise WrongScorer("its parameters are " + (", ".join(named) or "none"))
    declared = getattr(module, "SCORER_VERSION", None)
    if declared is None:
        source = inspect.getsource(module).encode()
        version = hashlib.sha256(source).hexdigest()[:12]
    else:
        version = str(declared)
        version.encode()
    numbers = {}
    for setting, usual, least in _SETTINGS:
        value = getattr(module, setting, usual)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise WrongScorer(f"{setting} is {value!r}; it must be a number of at least {least}")
        numbers[setting] = value
    return {
        "form": form,
        "names": named,
        "required": [name for name in named if parameters[name].default is inspect.Parameter.empty],
        "positional_only": [name for name in named if kinds[name] == inspect.Parameter.POSITIONAL_ONLY],
        "takes_all": _ALL_NAMED in kinds.values(),
        "is_async": any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))),  # noqa: B004
        "version": version,
        "file": getattr(module, "__file__", None),
        **numbers,
    }


_ALL_POSITIONAL, _ALL_NAMED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
_TEXTS = ("ground_truth", "finish_reason", "question", "arm", "example_id")
_SETTINGS = (("SCORER_TIMEOUT", 60, 0.001), ("SCORER_CONCURRENCY", 16, 1), ("SCORER_RETRIES", 2, 0))


def _binds_three(function: Any) -> bool:
    try:
        inspect.signature(function).bind("completion", "ground_truth", "stop")
    except TypeError:
        return False
    return True


def call(function: Any, described: dict[str, Any], arguments: dict[str, Any]) -> Any:
    if described["form"] == "positional":
        return function(*arguments.values())
    first = [arguments.pop(name) for name in described["positional_only"]]
    return function(*first, **arguments)


def serve_sync(connection: Connection, call: Any) -> None:
    while (message := receive(connection)) is not None:
        answer: dict[str, Any]
        try:
            answer = {"results": results_of(call(message["arguments"]), message["rows"])}
        except BaseException as error:
            answer = {"error": told(error), "trace": where(error)}
        send(connection, {"id": message["id"], **answer})


def serve_async(connection: Connection, call: Any) -> None:
    async def answer(message: dict[str, Any]) -> None:
        send(connection, {"id": message["id"], **await tried(message)})

    async def called(message: dict[str, Any]) -> dict[str, Any]:
        # an exit or an interrupt that leaves a task would end the loop
        try:
            return {"results": results_of(await call(dict(message["arguments"])), message["rows"])}
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return {"error": told(error), "trace": where(error)}

    async def tried(message: dict[str, Any]) -> dict[str, Any]:
        late = False
        for attempt in range(message["retries"] + 1):
            try:
                found = await asyncio.wait_for(called(message), message["timeout"])
            except TimeoutError:
                late = True
                found = {"error": f"it took more than {message['timeout']:g} s", "trace": None}
            if "results" in found:
                break
            if attempt < message["retries"]:
                await asyncio.sleep(backoff(attempt))
        return {**found, "late": late}

    async def serve() -> None:
        loop, under_way = asyncio.get_running_loop(), set()
        while (message := await loop.run_in_executor(None, receive, connection)) is not None:
            task = loop.create_task(answer(message))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    asyncio.run(serve())


def backoff(attempt: int) -> float:
    """Seconds before an asynchronous call is made again."""
    return float(min(LONGEST_BACKOFF_S, 0.5 * 2**attempt))


def results_of(returned: Any, rows: int | None) -> list[dict[str, Any]]:
    """What the function returned as one result per row; ``rows`` is None for a function of a single row."""
    if rows is None:
        return [result_of(returned)]
    if hasattr(returned, "tolist"):
        returned = returned.tolist()
    if not isinstance(returned, list | tuple) or len(returned) != rows:
        found = f"{len(returned)} results" if isinstance(returned, list | tuple) else shortened(repr(returned))
        raise ValueError(f"it returned {found} for {rows} completions; return a list with one for each")
    # in TRL, None says that the function does not apply to this row
    return [result_of({"reward": None} if item is None else item) for item in returned]


def result_of(returned: Any) -> dict[str, Any]:
    """A reward, an answer, a method and extra columns. Raises ValueError, which says what is wrong."""
    if isinstance(returned, collections.abc.Mapping):
        values = {str(name): value for name, value in returned.items()}
        if not {"reward", "score"} & values.keys():
            raise ValueError(f"it returned a mapping of {', '.join(values) or 'nothing'}, without reward. Add reward")
        reward = values.pop("reward" if "reward" in values else "score")
        answer = values.pop("extracted_answer", None)
        return {
            "reward": None if reward is None else number(reward, returned),
            "answer": None if answer is None else text(answer),
            "method": "custom",
            "flexible": None,
            "extra": {text(name): scalar(value) for name, value in values.items()},
        }
    if all(hasattr(returned, name) for name in ("reward", "extracted_answer", "method", "correct_flexible")):
        answer = returned.extracted_answer
        return {
            "reward": number(returned.reward, returned),
            "answer": None if answer is None else text(answer),
            "method": text(returned.method),
            "flexible": bool(returned.correct_flexible),
            "extra": {},
        }
    reward = number(returned, returned)
    return {"reward": reward, "answer": None, "method": "custom", "flexible": None, "extra": {}}


def number(value: Any, returned: Any) -> float | None:
    """The reward as a number; None for NaN."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    is_text = isinstance(value, str | bytes | bytearray | complex) or getattr(value, "ndim", 0) != 0
    found = None if is_text or not (hasattr(value, "__float__") or hasattr(value, "__index__")) else float(value)
    if found is None or math.isinf(found):
        raise ValueError(
            f"it returned {shortened(repr(returned))}, which is neither a finite number nor a mapping with reward"
        )
    struct.pack("<f", found)  # raises OverflowError for what a Float32 would make infinite
    return None if math.isnan(found) else found


def scalar(value: Any) -> bool | float | str | None:
    """The value of an extra column: a truth value, a number, or a text, JSON for what is none of these."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value)
    return text(value if isinstance(value, str) else json.dumps(value, default=str))


def text(value: Any) -> str:
    """The value as a text. Raises UnicodeEncodeError for half of a surrogate pair, which no file holds."""
    found = str(value)
    found.encode()
    return found


def told(error: BaseException) -> str:
    """The error's type and text. The user's code may make the text, and may fail to make it."""
    try:
        found = str(error)
    except BaseException as another:
        found = f"its text cannot be read, which raised {type(another).__name__}"
    return f"{type(error).__name__}: {shortened(found)}" if found else type(error).__name__


def where(error: BaseException) -> str | None:
    """The last line of the user's code that the error came from."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen ")
    ]
    if not frames:
        return None
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {shortened(frames[-1].line or '')}"


def shortened(found: str) -> str:
    found = " ".join(found.split())
    return found if len(found) <= 400 else f"{found[:400]}…"


def send(connection: Connection, message: dict[str, Any]) -> None:
    if os.getpid() != _BEGAN:
        # the user's code has forked this process, and two must not answer
        os._exit(0)
    with _SEND:
        connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
