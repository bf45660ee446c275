"""Takes the rest of the first GPU's memory for a while, to provoke a real out-of-memory failure of a run.

    python infra/gpu-bench/take_memory.py RUN_PATTERN start|run

"start" takes it when the engine has loaded its weights, "run" when the run has admitted its first requests.
"""

import contextlib
import sys
import time
from pathlib import Path

import torch

LEAVE_BYTES = 48 << 20
WEIGHTS_BYTES = 2_200 << 20
HOLD_SECONDS = 15.0
GIVE_UP_SECONDS = 180.0


def main() -> None:
    pattern, moment = Path(sys.argv[1]), sys.argv[2]
    torch.empty(1, device="cuda")  # makes this process's CUDA context before the measurement
    before, _ = torch.cuda.mem_get_info()
    until = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until:
        free, _ = torch.cuda.mem_get_info()
        admitted = any(pattern.parent.glob(f"{pattern.name}*/state/journal/*"))
        if before - free > WEIGHTS_BYTES if moment == "start" else admitted:
            break
        time.sleep(0.01)
    free, _ = torch.cuda.mem_get_info()
    held = None
    with contextlib.suppress(torch.OutOfMemoryError):
        held = torch.empty(max(0, free - LEAVE_BYTES), dtype=torch.uint8, device="cuda")
    print(f"holding {0 if held is None else held.numel() / 2**30:.2f} GiB for {HOLD_SECONDS:g} s", flush=True)
    time.sleep(HOLD_SECONDS)


if __name__ == "__main__":
    main()
