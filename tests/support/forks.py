"""A process that has imported what is costly, and forks another for each call: an import takes as long as the call."""

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.left_behind import outlives_the_test
from tests.support.patience import until

_SERVER = """
import gc; gc.disable()
import json, os, sys, threading
from tasks.parent_death import die_with_parent
die_with_parent(int(sys.argv[1]))
exec(sys.argv[2])
assert threading.active_count() == 1, threading.enumerate()
# each fork would look at all that was imported
gc.collect()
gc.freeze()
gc.enable()
server = os.getpid()
for line in sys.stdin:
    call, arguments, variables, gone, cwd, folder = json.loads(line)
    if (pid := os.fork()) == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    sys.exit()
die_with_parent(server)
for number, name in ((0, os.devnull), (1, f"{folder}/out"), (2, f"{folder}/err")):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
for name in gone:
    os.environ.pop(name, None)
# what imports have set stays
os.environ |= variables
os.chdir(cwd)
sys.argv[1:] = arguments
exec(call, {"__name__": "__main__"})
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a forked process ended, and what it printed."""

    code: int
    out: str
    err: str


class Forks:
    """Runs scripts one after the other, each in a process that has run ``imports``. Ends with this process.

    ``imports`` must start no thread, which a fork would lack.
    """

    def __init__(self, imports: str, environment: Mapping[str, str]) -> None:
        self._imports = imports
        self._environment = dict(environment)
        self._server = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(os.getpid()), self._imports],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        outlives_the_test(server.pid)
        atexit.register(server.communicate)
        return server

    def run(self, script: str, arguments: list[str], environment: Mapping[str, str], cwd: Path) -> Ended:
        """Run ``script`` with ``arguments`` as a process of its own would, with this environment and directory."""
        if self._server.poll() is not None:
            # it was ended with a fork that hung
            self._server = self._start()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            gone = sorted(self._environment.keys() - environment.keys())
            order = (script, arguments, dict(environment), gone, str(cwd), name)
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            told = self._server.stdout
            logs = [folder / "out", folder / "err"]
            waiting_for = f"the end of a fork with {' '.join(arguments)}"
            try:
                until(lambda: select.select([told], [], [], 0)[0], waiting_for, alive=[self._server], logs=logs)
            except BaseException:
                # the next call would take the end of this one for its own
                self._server.kill()
                self._server.wait()
                raise
            code = int(told.readline())
            out, err = (path.read_text(errors="replace") for path in logs)
        return Ended(code=code, out=out, err=err)
