"""``harvest`` with the shared Prefect server, forked from a process that has imported Prefect and the flow.

Five of the eight seconds of processor time that ``harvest run`` takes with a fake engine are imports. How they go is
seen by the tests that run ``tests.support.harvest_command.harvest``.
"""

import functools
from pathlib import Path

from tests.support.forks import Forks
from tests.support.harvest_command import Outcome, environment

_IMPORTS = """
from pathlib import Path
from flows.server.prefect_environment import configure_prefect, import_prefect_without_pandas
configure_prefect(Path(), verbose={verbose})
import_prefect_without_pandas()
import flows.collect, flows.commands.run
"""
_CALL = "import sys; from flows.commands.cli import main; main(sys.argv[1:])"


@functools.cache
def _forks(verbose: bool, **of_prefect: str) -> Forks:
    # Prefect reads its settings when it is imported
    return Forks(_IMPORTS.format(verbose=verbose), environment(**of_prefect))


def harvest_forked(api: str, *arguments: object, cwd: Path | None = None, **extra: str) -> Outcome:
    """As ``harvest`` with ``PREFECT_API_URL=api``."""
    extra["PREFECT_API_URL"] = api
    of_prefect = {name: value for name, value in extra.items() if name.startswith("PREFECT_")}
    forks = _forks("--verbose" in arguments, **of_prefect)
    ended = forks.run(_CALL, [*map(str, arguments)], environment(**extra), cwd or Path.cwd())
    return Outcome(code=ended.code, stdout=ended.out, stderr=ended.err)
