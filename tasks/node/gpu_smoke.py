"""Runs a short computation on every GPU, since NVML can report a dead GPU as healthy.

Each GPU multiplies matrices whose product is known. With several GPUs, NCCL then adds one number from each. A child
process does this within a time limit, ``python -m tasks.node.gpu_smoke GPUS``, and prints a line when it succeeds.
The child and its workers end with the process that started them, since one that hangs would hold its GPU.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.node.check_result import CheckResult
from tasks.parent_death import PARENT_VARIABLE, die_with_parent
from tasks.time_limits import time_limit

TIME_LIMIT_S = 300.0
"""Every process imports torch first, which takes minutes from a slow disk."""

_SIDE = 2048


def check_smoke(gpus: Sequence[int], *, time_limit_s: float = TIME_LIMIT_S, child: Sequence[str] = ()) -> CheckResult:
    """The result of the test on the GPUs with these NVML indices; ``child`` replaces the child's command."""
    time_limit_s = time_limit(time_limit_s)
    command = [*(child or (sys.executable, "-m", "tasks.node.gpu_smoke")), str(len(gpus))]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        PARENT_VARIABLE: str(os.getpid()),
    }
    output = ""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=time_limit_s)
            said = f"exit code {process.returncode}: {_last_line(output)}"
        except subprocess.TimeoutExpired:
            said = f"did not end within {time_limit_s:g} s"
        finally:
            process.kill()
    passed = process.returncode == 0
    return CheckResult(
        name="smoke test",
        status="pass" if passed else "fail",
        value=_last_line(output) if passed else said,
        limit=f"matrix product and all-reduce on {len(gpus)} GPUs within {time_limit_s:g} s",
        remedy=""
        if passed
        else f"Reset the GPUs or reboot the node. To test alone: python -m tasks.node.gpu_smoke {len(gpus)}",
    )


def run_smoke(gpus: int) -> None:
    """Compute on ``gpus`` GPUs, inside the child process. Raises RuntimeError on a wrong result."""
    import torch

    if gpus == 1:
        _multiply(torch, 0)
    else:
        import torch.multiprocessing as processes

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes.spawn(_worker, args=(gpus, port, os.getpid()), nprocs=gpus)
    print(f"{gpus} GPUs computed the right result", flush=True)


def _worker(rank: int, world: int, port: int, parent_pid: int) -> None:
    # torch sends SIGINT when the parent dies, but a process that hangs in the driver ignores it
    die_with_parent(parent_pid)
    import torch
    import torch.distributed as dist

    _multiply(torch, rank)
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    total = torch.full((1 << 20,), float(rank + 1), device=f"cuda:{rank}")
    dist.all_reduce(total)
    expected = world * (world + 1) / 2
    if not bool((total == expected).all()):
        raise RuntimeError(f"all-reduce on GPU {rank} gave {total[0].item()}, not {expected}")
    dist.destroy_process_group()


def _multiply(torch: Any, gpu: int) -> None:
    torch.cuda.set_device(gpu)
    ones = torch.ones(_SIDE, _SIDE, device=f"cuda:{gpu}", dtype=torch.bfloat16)
    product = ones @ ones  # every element is the sum of _SIDE ones, exact in bfloat16
    if not bool((product == _SIDE).all()):
        raise RuntimeError(f"the matrix product on GPU {gpu} is wrong")


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


if __name__ == "__main__":
    if PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    run_smoke(int(sys.argv[1]))
