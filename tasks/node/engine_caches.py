"""Where engines keep compiled graphs and kernels, so that the next start need not make them again.

vLLM keeps graphs that torch.compile made, DeepGEMM's kernels and FlashInfer's tuning below ``VLLM_CACHE_ROOT``. Triton,
Inductor, FlashInfer and the CUDA driver have directories of their own, most of them in the user's home, which a
container loses. ``HARVEST_CACHE_DIR`` moves them all. A variable that the user has set for one of them wins.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from profiles.engine_settings import EngineSettings
from tasks.errors import ConfigError
from tasks.node.check_result import CheckResult
from tasks.units import MIB, format_gib
from tasks.user_paths import check_directory

CACHE_VARIABLE = "HARVEST_CACHE_DIR"
SPARE_CACHES = "engine-caches"
"""Below a run's ``state``: the engine's caches, when the chosen ones cannot be written."""
_PLACES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
}
FREE_LEAST = 256 * MIB
"""One engine's graphs and kernels took 20 to 150 MiB."""

StartKind = Literal["cold", "warm", "not compiled"]
"""How an engine started: it had to compile graphs, it had all of them in the cache, or its settings need none."""
START_KINDS: tuple[StartKind, ...] = get_args(StartKind)
START_WORDS: dict[StartKind, str] = {
    "cold": "cold: graphs were compiled",
    "warm": "warm: no graph had to be compiled",
    "not compiled": "without compiled graphs",
}


@dataclass(frozen=True, kw_only=True)
class EngineCaches:
    """The caches that an engine uses."""

    root: Path
    """vLLM's own, with the compiled graphs."""
    variables: dict[str, str]
    """What to set in the environment of an engine's process."""
    problem: str = ""
    """Why the directory that was asked for is not used; empty when it is."""


def chosen_caches(environment: Mapping[str, str]) -> EngineCaches:
    """Return the caches that ``environment`` asks for, and what is wrong with them. Writes nothing that stays."""
    variables: dict[str, str] = {}
    if base := environment.get(CACHE_VARIABLE):
        variables = {name: str(_path(base) / place) for name, place in _PLACES.items() if not environment.get(name)}
    used = {**environment, **variables}
    root = cache_root(used)
    # those of the other libraries end an engine as well
    places = (root, *(_path(place) for name in _PLACES if (place := used.get(name))))
    problem = next(filter(None, map(_problem, dict.fromkeys(places))), "")
    return EngineCaches(root=root, variables=variables, problem=problem)


def usable_caches(environment: Mapping[str, str], spare: Path) -> EngineCaches:
    """Return the caches of an engine: the chosen ones, or those in the directory ``spare`` when they cannot be used.

    An engine does not start without a cache that it can write, and a run shall not end for the lack of one.
    """
    caches = chosen_caches(environment)
    if not caches.problem:
        return caches
    variables = {name: str(spare.absolute() / place) for name, place in _PLACES.items()}
    return EngineCaches(root=cache_root(variables), variables=variables, problem=caches.problem)


def cached_environment(environment: Mapping[str, str], spare: Path) -> dict[str, str]:
    """Return ``environment`` with the variables of ``usable_caches``, whose directories are made."""
    variables = usable_caches(environment, spare).variables
    for directory in variables.values():
        with contextlib.suppress(OSError):
            # the CUDA driver makes none
            Path(directory).mkdir(parents=True, exist_ok=True)
    return {**environment, **variables}


def cache_root(environment: Mapping[str, str]) -> Path:
    """Return vLLM's cache directory in a process with ``environment``, by vLLM's own rule."""
    if root := environment.get("VLLM_CACHE_ROOT"):
        return _path(root)
    return _path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "vllm"


def check_engine_caches(environment: Mapping[str, str]) -> CheckResult:
    """The check that engines can keep what they compile. It never fails: without a cache a start only takes longer."""
    caches = chosen_caches(environment)
    if caches.problem:
        return CheckResult(
            name="engine caches",
            status="warn",
            value=f"{caches.problem}. So a run keeps what it compiles in its own directory, for itself alone",
            remedy=f"Set {CACHE_VARIABLE} to a directory on this node's disk that takes writes",
        )
    return CheckResult(name="engine caches", status="pass", value=f"{caches.root} takes writes")


def coldest(kinds: Iterable[StartKind | None]) -> StartKind | None:
    """Return the kind that says most of several starts: cold if one was; None when none is known."""
    found = set(kinds)
    return next((kind for kind in START_KINDS if kind in found), None)


class StartWatch:
    """Says of an engine's start whether graphs were compiled: then some are new in the cache, or were written again."""

    def __init__(self, settings: EngineSettings, environment: Mapping[str, str]) -> None:
        self._compiles = not settings.enforce_eager
        self._keeps = environment.get("VLLM_DISABLE_COMPILE_CACHE", "0") in ("", "0")
        self._root = cache_root(environment)
        self._before = self._compiled()

    def kind(self) -> StartKind:
        """Return how the engine started. Call it once, when the engine is ready."""
        if not self._compiles:
            return "not compiled"
        if not self._keeps:
            return "cold"
        after = self._compiled()
        if not after:
            return "not compiled"  # vLLM compiles only the models that are prepared for it
        return "warm" if after <= self._before else "cold"

    def _compiled(self) -> set[tuple[Path, int]]:
        if not self._compiles:
            return set()
        found = set()
        # one directory per set of settings, in it one per rank of the engine, and there only what vLLM compiled
        for path in self._root.glob("torch_compile_cache/**/rank_*/**/*"):
            with contextlib.suppress(FileNotFoundError):  # another engine's temporary file
                if not path.is_dir():
                    found.add((path, path.stat().st_mtime_ns))
        return found


def _problem(root: Path) -> str:
    try:
        check_directory(root, "the directory")
        free = shutil.disk_usage(next(each for each in (root, *root.parents) if each.exists())).free
    except ConfigError as error:
        return str(error).partition(". Give")[0]
    except OSError as error:
        return f"the directory {root} cannot be read: {error.strerror}"
    return "" if free >= FREE_LEAST else f"the disk of {root} has only {format_gib(free, 2)} free"


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111
