import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.node.gpu_smoke import check_smoke
from tasks.time_limits import time_limit
from tests.support.harvest_command import ROOT

CHILDREN = [
    ("print('2 GPUs computed the right result')", "pass", "2 GPUs"),
    ("raise RuntimeError('the matrix product on GPU 1 is wrong')", "fail", "GPU 1 is wrong"),
    ("import time; time.sleep(60)", "fail", f"did not end within {time_limit(1):g} s"),
]


@pytest.mark.parametrize(("program", "status", "said"), CHILDREN)
def test_smoke_test_reports_success_failure_and_timeout(tmp_path: Path, program: str, status: str, said: str) -> None:
    script = tmp_path / "child.py"
    script.write_text(program)
    limit = 1.0 if status == "fail" and "sleep" in program else 60.0
    check = check_smoke([0, 1], time_limit_s=limit, child=(sys.executable, str(script)))
    assert check.status == status
    assert said in check.value


FAKE_TORCH = """
import os, sys, time
from multiprocessing import get_context
from pathlib import Path

class cuda:
    @staticmethod
    def set_device(gpu):
        (Path(os.environ["PIDS"]) / f"{os.getpid()}.pid").touch()
        time.sleep(120)

class multiprocessing:
    @staticmethod
    def spawn(worker, args, nprocs):
        for rank in range(nprocs):
            get_context("spawn").Process(target=worker, args=(rank, *args)).start()
        cuda.set_device(0)

sys.modules["torch.multiprocessing"] = multiprocessing
distributed = sys.modules["torch.distributed"] = multiprocessing
"""
PREFLIGHT = "from tasks.node.gpu_smoke import check_smoke; check_smoke([0, 1])"


def test_smoke_test_ends_with_a_killed_preflight(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    pids = tmp_path / "pids"
    pids.mkdir()
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    preflight = subprocess.Popen(
        [sys.executable, "-c", PREFLIGHT], env=os.environ | {"PYTHONPATH": paths, "PIDS": str(pids)}
    )
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 3:
        assert time.monotonic() < deadline, "child and workers did not start within 60 s"
        time.sleep(0.05)
    processes = [psutil.Process(int(path.stem)) for path in pids.iterdir()]
    preflight.kill()
    preflight.wait()
    gone, alive = psutil.wait_procs(processes, timeout=20)
    assert (len(gone), alive) == (3, [])
