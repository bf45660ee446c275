"""``harvest run`` as a child: the command of a process that ends with the one that starts it."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from flows.parameters import PARAMETERS
from tasks.plan.parameters import as_options

_ENTRY = """
from tasks.parent_death import die_with_parent
die_with_parent({pid})
from flows.commands.cli import main
main()
"""


def run_command(parameters: Mapping[str, Any]) -> list[str]:
    """Return the command that collects with ``parameters`` and prints the summary as JSON."""
    options = as_options(parameters, PARAMETERS)
    return [sys.executable, "-P", "-c", _ENTRY.format(pid=os.getpid()), "run", *options, "--json"]
