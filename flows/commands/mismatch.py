"""``harvest mismatch``: how far a trainer's logprobs are from those that a run stores."""

import argparse
import contextlib
from typing import Any

from flows.commands.common_options import add_run_options
from flows.terminal import print_error, print_json, print_line

DEFAULT_SAMPLE = 256


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "mismatch",
        help="recompute stored logprobs with transformers, as a trainer does: KL, ratios, worst tokens",
        description="Recompute the logprobs of a sample of rollouts with transformers and compare them with those that "
        "the engine stored. mismatch.json and the run's report show the result.",
    )
    add_run_options(parser, "run", urls=False)
    parser.add_argument(
        "--sample", type=int, metavar="N", default=DEFAULT_SAMPLE, help=f"rollouts, at most (default {DEFAULT_SAMPLE})"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="seed of the sample (default 0)")
    parser.add_argument(
        "--model", metavar="PATH", help="weights to recompute with, such as a trainer's checkpoint (default the run's)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where to compute, on one GPU at most (default cuda where there is one)",
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from flows.console import console
    from tasks.comparison.mismatch import mismatch_in_subprocess
    from tasks.comparison.mismatch_request import plan_mismatch
    from tasks.comparison.mismatch_view import render_mismatch
    from tasks.errors import ConfigError
    from tasks.node.gpu_lock import lock_gpus
    from tasks.node.gpu_selection import first_visible_gpu
    from tasks.node.nvml import PynvmlReader
    from tasks.plan.run_directory import find_run
    from tasks.results.summary_subprocess import show_mismatch_in_subprocess

    run_dir = find_run(options.run, options.runs_dir)
    gpu = None if options.device == "cpu" else first_visible_gpu(PynvmlReader())
    if options.device == "cuda" and gpu is None:
        raise ConfigError("device is cuda, and this node shows no GPU. Give --device cpu")
    request = plan_mismatch(
        run_dir,
        model=options.model,
        sample=options.sample,
        seed=options.seed,
        device=options.device or ("cpu" if gpu is None else "cuda"),
    )
    locked = lock_gpus([gpu], run_id=request.run_id, on_wait=print_error) if gpu else contextlib.nullcontext()
    with locked:
        report = mismatch_in_subprocess(run_dir, request)
    show_mismatch_in_subprocess(run_dir)
    if options.json:
        print_json(report.to_json())
    else:
        console().print(render_mismatch(report))
        print_line(f"report: {run_dir / 'mismatch.json'}")
    return 0
