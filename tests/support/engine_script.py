"""Scripts that start vLLM's engine, each in a process of its own: one that continues cannot shut it down."""

import json
import subprocess
import sys
from typing import Any

from tests.support.harvest_command import ROOT, environment


def run_engine_script(script: str, *arguments: object, **variables: str) -> Any:
    """Run ``script`` with ``arguments`` in the project's folder, and return the JSON in its last line of output."""
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])
