import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.node.gpu_smoke import check_smoke
from tests.support.harvest_command import ROOT
from tests.support.patience import HANG_SECONDS, SHORT_SECONDS, until

CHILDREN = [
    ("print('2 GPUs computed the right result')", HANG_SECONDS, "pass", "2 GPUs"),
    ("raise RuntimeError('the matrix product on GPU 1 is wrong')", HANG_SECONDS, "fail", "GPU 1 is wrong"),
    ("import signal; signal.pause()", SHORT_SECONDS, "fail", "did not end within "),
]


@pytest.mark.parametrize(("program", "limit", "status", "said"), CHILDREN, ids=["success", "failure", "timeout"])
def test_smoke_test_reports_success_failure_and_timeout(
    tmp_path: Path, program: str, limit: float, status: str, said: str
) -> None:
    script = tmp_path / "child.py"
    script.write_text(program)
    check = check_smoke([0, 1], time_limit_s=limit, child=(sys.executable, str(script)))
    assert check.status == status
    assert said in check.value


FAKE_TORCH = """
import os, signal, sys
from multiprocessing import get_context
from pathlib import Path

class cuda:
    @staticmethod
    def set_device(gpu):
        (Path(os.environ["PIDS"]) / f"{os.getpid()}.pid").touch()
        signal.pause()

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
    until(lambda: len(list(pids.iterdir())) == 3, "the start of the child and its workers", alive=[preflight])
    processes = [psutil.Process(int(path.stem)) for path in pids.iterdir()]
    preflight.kill()
    preflight.wait()
    until(lambda: not any(map(lives, processes)), "the end of the child and its workers")


def lives(process: psutil.Process) -> bool:
    """Tell whether a process runs: one that has ended may stay as a zombie, as its parent is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
