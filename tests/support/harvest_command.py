"""The ``harvest`` command as a user runs it, in a process of its own, and in this process, which costs little."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.commands.cli import main
from tests.support.patience import read_to_end

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        assert self.stdout, f"exit code {self.code}: {self.stderr}"
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **extra}


def harvest(*arguments: str | Path, cwd: Path | None = None, **extra: str) -> Outcome:
    """Run ``harvest`` with these arguments and, as keywords, additional environment variables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.commands.cli", *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = read_to_end(process, f"the end of harvest {' '.join(map(str, arguments))}")
    return Outcome(code=process.returncode, stdout=stdout, stderr=stderr)


def harvest_here(*arguments: str | Path) -> int:
    """Run ``harvest`` in this process, which is cheap; returns the exit code. ``capsys`` has what it prints."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


Tell = Callable[..., Outcome]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """``harvest_here``, and what it prints."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = harvest_here(*arguments)
        printed = capsys.readouterr()
        return Outcome(code=code, stdout=printed.out, stderr=printed.err)

    return run
