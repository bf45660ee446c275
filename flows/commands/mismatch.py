"""``harvest mismatch``: how far a trainer's logprobs are from those that a run stores."""

import contextlib

import click

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_error, print_line

_DEVICES = click.Choice(("cpu", "cuda"))


@command(examples=("harvest mismatch latest --model checkpoints/step-100",))
@click.option("--sample", metavar="N", default=256, help="rollouts, at most")
@click.option("--seed", metavar="N", default=0, help="seed of the sample")
@click.option("--model", metavar="PATH", help="weights, such as a trainer's checkpoint; by default the run's")
@click.option(
    "--device", type=_DEVICES, metavar="cpu|cuda", help="where to compute; by default cuda, on one GPU, if there is one"
)
@reads_runs("run", urls=False, credentials=False)
def mismatch(runs: Runs, run: str, sample: int, seed: int, model: str | None, device: str | None, json: bool) -> int:
    """Recompute the logprobs of a sample of rollouts with transformers and compare them with those that the engine
    stored. mismatch.json and the run's report show the result.
    """
    from flows.console import print_result
    from tasks.comparison.mismatch import mismatch_in_subprocess
    from tasks.comparison.mismatch_request import plan_mismatch
    from tasks.comparison.mismatch_view import render_mismatch
    from tasks.errors import ConfigError
    from tasks.node.gpu_lock import lock_gpus
    from tasks.node.gpu_selection import first_visible_gpu
    from tasks.node.nvml import PynvmlReader
    from tasks.results.summary_subprocess import show_mismatch_in_subprocess

    run_dir = runs.find(run)
    gpu = None if device == "cpu" else first_visible_gpu(PynvmlReader())
    if device == "cuda" and gpu is None:
        raise ConfigError("device is cuda, and this node shows no GPU. Give --device cpu")
    where = device or ("cpu" if gpu is None else "cuda")
    request = plan_mismatch(run_dir, model=model, sample=sample, seed=seed, device=where)
    locked = lock_gpus([gpu], run_id=request.run_id, on_wait=print_error) if gpu else contextlib.nullcontext()
    with locked:
        report = mismatch_in_subprocess(run_dir, request)
    show_mismatch_in_subprocess(run_dir)
    print_result(report.to_json(), lambda: render_mismatch(report), json=json)
    if not json:
        print_line(f"report: {run_dir / 'mismatch.json'}")
    return 0
