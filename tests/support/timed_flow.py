"""Collections with a time limit, in a process that outlives each of them: so nothing ends because its parent did.

``python -m tests.support.timed_flow PARAMETERS``. Each line of input is one run as JSON: the limit in seconds or null,
and the number of completions after which the fake engine stands still. Each line of output is the state in which that
run ended.
"""

import json
import os
import sys

from flows.server.prefect_environment import set_prefect_defaults

set_prefect_defaults()

from flows.collect import collect_rollouts  # noqa: E402  # the settings must be there first


def main() -> None:
    parameters = json.loads(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        os.environ["FAKE_HOLD_AFTER"] = str(order["hold_after"])
        limited = collect_rollouts.with_options(timeout_seconds=order["limit"], retries=0)
        state = limited(**parameters, return_state=True)
        told = {"id": str(state.state_details.flow_run_id), "type": state.type.value, "name": state.name}
        print(json.dumps({**told, "message": state.message}), flush=True)


if __name__ == "__main__":
    main()
