"""``harvest bench``: measure the pipeline beside the loops that it replaces, vLLM's own limit, and peers."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from flows.bench_settings import CONTESTANTS, DEFAULT_QUESTIONS, DEFAULT_REPEATS, MOST_REPEATS
from flows.commands.command import Whole, command, flag
from flows.commands.parameter_options import given_parameters, parameter_options
from flows.parameters import MEASURED_PARAMETERS
from flows.server.interruption import INTERRUPTED, Interruption
from flows.terminal import print_json, print_line, say
from tasks.errors import ConfigError
from tasks.peers.installed import PEERS
from tasks.plan.run_config import DEFAULT_TOP_LOGPROBS

if TYPE_CHECKING:
    from flows.bench import Bench

_LAST_WORDS = "harvest: interrupted; a benchmark does not resume; the same command starts from the beginning"
_REPEATS = Whole(1, MOST_REPEATS)
_USUAL: dict[str, Any] = {"runs_dir": "runs", "questions": DEFAULT_QUESTIONS, "top_logprobs": DEFAULT_TOP_LOGPROBS}
_NAMES = ", ".join((*CONTESTANTS, *PEERS))


@command(
    examples=(
        "harvest bench --model Qwen/Qwen2.5-7B-Instruct --only limit,features,pipeline",
        "harvest bench --questions 64 --lengths lognormal:64:0.8",
    ),
)
@click.option("--repeats", type=_REPEATS, default=DEFAULT_REPEATS, metavar="N", help="times to measure each")
@click.option("--only", metavar="NAMES", help=f"measure only some, separated by commas, of {_NAMES}")
@flag("--peers", f"measure those of {', '.join(PEERS)} as well that are here")
@click.option("--baseline-profile", metavar="P", help="of the baseline; by default the profile's baseline")
@click.option(
    "--noise-floor",
    is_flag=True,
    help="instead, run the baseline three times and store how far rounding makes the runs differ",
)
@parameter_options(MEASURED_PARAMETERS, _USUAL)
@flag("--json", "print the result as JSON")
def bench(
    repeats: int,
    only: str | None,
    peers: bool,
    baseline_profile: str | None,
    noise_floor: bool,
    json: bool,
    **given: Any,
) -> int:
    """Generate for the same questions by one question per LLM.generate call (baseline), 16 questions per call (script),
    one call at vLLM's own defaults for token ids alone (limit) and for what a run stores (features), and harvest run
    (pipeline), interleaved and repeated, and print time, throughput, ratios and equivalence. With --lengths all make
    the same tokens for each rollout; without, compare tokens/s.
    """
    from tasks.process_limits import check_limits_of_run

    check_limits_of_run()

    from flows.bench import Bench
    from flows.bench_contestants import choose_contestants
    from tasks.user_paths import check_directory, user_path

    contestants, absent = choose_contestants(only, peers=peers)
    if noise_floor and (only is not None or peers):
        other = "--peers" if only is None else "--only"
        raise ConfigError(f"--noise-floor runs the baseline alone, so that {other} has no meaning. Leave one out")
    parameters = _USUAL | given_parameters(given)
    check_directory(user_path(parameters["runs_dir"]), "the runs directory")
    Interruption(_LAST_WORDS)
    if absent:
        say(absent)
    try:
        measured = Bench(parameters, baseline_profile=baseline_profile, log=say)
        return _measure_floor(measured, json) if noise_floor else _measure(measured, contestants, repeats, json)
    except KeyboardInterrupt:
        say(_LAST_WORDS)
        return INTERRUPTED


def _measure_floor(bench: "Bench", json: bool) -> int:
    floor, path = bench.noise_floor()
    if json:
        print_json({**asdict(floor), "path": str(path)})
        return 0
    known = "measured" if floor.measured else "the default, as no tokens differed"
    print_line(
        f"near-tie limit {floor.near_tie_limit:.3g} nats ({known}); {floor.divergences} of {floor.rollouts} "
        f"rollouts differ, {floor.flip_rate:.2%} flip between right and wrong"
    )
    print_line(f"stored in {path}; harvest run --baseline and harvest compare use it from now on")
    return 0


def _measure(bench: "Bench", contestants: tuple[str, ...], repeats: int, json: bool) -> int:
    from flows.console import print_result
    from flows.reporting.bench_view import render_bench

    result = bench.run(contestants, repeats)
    return print_result(result.to_json(), lambda: render_bench(result), json=json)
