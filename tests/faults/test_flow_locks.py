"""A flow waits for GPUs in use and is refused a run in use; both times it names the holder."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.results.run_list import list_runs
from tests.support.fake_profile import FAKE_PROFILE
from tests.support.harvest_command import environment, harvest
from tests.support.patience import await_exit, until

pytestmark = pytest.mark.slow

HOLD = """
import sys
from tasks.node.gpu_lock import lock_gpus
with lock_gpus(["0"], run_id="night-shift", on_wait=print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_gpus_in_use_are_waited_for_and_a_run_in_use_is_refused(tmp_path: Path, prefect_api: str) -> None:
    profile = tmp_path / "gpu.toml"
    profile.write_text(FAKE_PROFILE.replace('device = "cpu"', 'gpu_count = 1\ngpu_name = "H100"'), encoding="utf-8")
    variables = {
        "PREFECT_API_URL": prefect_api,
        "HARVEST_LOCK_DIR": str(tmp_path / "locks"),
        "CUDA_VISIBLE_DEVICES": "0",
    }
    options = [
        "--profile",
        str(profile),
        "--questions",
        "4",
        "--max-tokens",
        "16",
        "--runs-dir",
        str(tmp_path / "runs"),
    ]
    held, told = tmp_path / "holder.log", tmp_path / "waiting.log"
    with held.open("wb") as log:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD], env=environment(**variables), stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    assert holder.stdin is not None
    started = [holder]
    try:
        until(lambda: held.read_text() == "held\n", "the GPU is in use", alive=[holder], logs=[held])
        with told.open("wb") as log:
            waiting = subprocess.Popen(
                [sys.executable, "-m", "flows.commands.cli", "run", *options], env=environment(**variables), stderr=log
            )
        started.append(waiting)
        line = f"waiting for GPU 0, in use by run night-shift, process {holder.pid} on "
        until(lambda: line in told.read_text(), line, alive=started, logs=[told])

        refused = harvest("run", *options, **variables)
        assert refused.code == 2
        assert f"is in use by process {waiting.pid} on " in refused.stderr
        assert "preflight" not in told.read_text()
        (listed,) = list_runs(tmp_path / "runs")
        assert (listed.state, listed.holder and listed.holder.pid) == ("running", waiting.pid)
        assert ", flow run gpu · demo · 4 q x 8 (" in str(listed.reason)

        holder.stdin.close()
        # this machine has no such GPU, which preflight finds as soon as it may look
        assert await_exit(waiting, logs=[told]) == 2
        assert "preflight failed" in told.read_text()
        assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    finally:
        for process in started:
            process.kill()
            process.wait()
        holder.stdin.close()
