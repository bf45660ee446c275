"""The ``vllm`` command as a process that dies with the contestant that started it.

``python -m tasks.peers.vllm_command PARENT_PID serve MODEL OPTION...``
"""

import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.generation.engine import EngineSpec
from tasks.generation.vllm_engine import default_arguments
from tasks.parent_death import PARENT_VARIABLE, die_with_parent


def serve_options(spec: EngineSpec) -> dict[str, Any]:
    """Return the options of ``vllm serve`` by name, without dashes: ``default_arguments`` but the model."""
    arguments = default_arguments(spec, seeded=True)
    return {name.replace("_", "-"): value for name, value in arguments.items() if name != "model"}


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Return ``options`` as words of a command line; True is a bare flag, False its ``--no-`` form."""
    switches = {True: "--{}", False: "--no-{}"}
    return [
        switches[value].format(name) if isinstance(value, bool) else f"--{name}={value}"
        for name, value in options.items()
    ]


def vllm_words(*arguments: str) -> list[str]:
    """Return the words that run ``vllm`` with ``arguments`` as a child of this process."""
    return [sys.executable, "-P", "-m", "tasks.peers.vllm_command", str(os.getpid()), *arguments]


def put_on_path(directory: Path) -> None:
    """Make a command ``vllm`` in ``directory`` that runs as a child of this process, and put it first on PATH."""
    directory.mkdir(exist_ok=True)
    command = directory / "vllm"
    words = " ".join(f"'{word}'" for word in vllm_words())
    command.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    os.environ["PATH"] = f"{directory}{os.pathsep}{os.environ.get('PATH', '')}"


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    sys.argv = ["vllm", *sys.argv[2:]]
    runpy.run_module("vllm.entrypoints.cli.main", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
