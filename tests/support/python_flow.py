"""A user's script that calls the flow as the guide says: ``python -m tests.support.python_flow PARAMETERS``."""

import json
import sys
from pathlib import Path

from flows.server.embedded_server import EmbeddedServer
from flows.server.prefect_environment import configure_prefect

parameters = json.loads(sys.argv[1])
if configure_prefect(Path(parameters["runs_dir"]), verbose=True):
    EmbeddedServer().wait_until_ready()

from flows.collect import collect_rollouts  # noqa: E402  # as Prefect reads its settings then

collect_rollouts(**parameters)
