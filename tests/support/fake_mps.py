"""A stand-in for NVIDIA's ``nvidia-cuda-mps-control``: an executable for PATH that runs a daemon and takes commands."""

import os
from pathlib import Path

SCRIPT = """#!/bin/sh
pipes="${{CUDA_MPS_PIPE_DIRECTORY:-{folder}/default}}"
if [ "$1" = -f ]; then
    [ -z "$FAKE_MPS_FAULT" ] || {{ echo "$FAKE_MPS_FAULT"; exit 1; }}
    env >{folder}/daemon.env
    echo $$ >{folder}/daemon.new && mv {folder}/daemon.new {folder}/daemon.pid
    mkfifo "$pipes/control"
    read -r command <"$pipes/control"
    echo "$command" >{folder}/daemon.end
    exit 0
fi
read -r command
[ -p "$pipes/control" ] || {{ echo "Cannot find MPS control daemon process"; exit 1; }}
[ "$command" != quit ] || echo quit >"$pipes/control"
"""


def install_fake_mps(folder: Path) -> dict[str, str]:
    """Write the executable into ``folder``. Return this process's environment with it, and without the user's MPS.

    A daemon writes ``daemon.pid`` and ``daemon.env`` there, and what ended it into ``daemon.end``. With the variable
    ``FAKE_MPS_FAULT`` it says that and does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / "nvidia-cuda-mps-control"
    binary.write_text(SCRIPT.format(folder=folder))
    binary.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_MPS_")}
    return kept | {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}


def run_daemon_of_the_user(pipes: Path) -> dict[str, str]:
    """Let a daemon answer at ``pipes``. Return the variable that names it."""
    pipes.mkdir()
    os.mkfifo(pipes / "control")
    return {"CUDA_MPS_PIPE_DIRECTORY": str(pipes)}
