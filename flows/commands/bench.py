"""``harvest bench``: measure the pipeline beside the loops that it replaces, vLLM's own limit, and peers."""

import argparse
import sys
from typing import Any

from flows.server.interruption import INTERRUPTED, Interruption
from flows.terminal import print_json, print_line

_LAST_WORDS = "harvest: interrupted; a benchmark does not resume; the same command starts from the beginning"


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        add_options=_add_options,
        help="measure the pipeline beside the loops that it replaces, vLLM's own limit, and peers",
        description="Generate for the same questions by one question per LLM.generate call (baseline), 16 questions "
        "per call (script), one call at vLLM's own defaults for token ids alone (limit) and for what a run stores "
        "(features), and harvest run (pipeline), interleaved and repeated, and print time, throughput, ratios and "
        "equivalence. With --lengths all make the same tokens for each rollout; without, compare tokens/s.",
    )
    parser.set_defaults(execute=execute)


def _add_options(parser: argparse.ArgumentParser) -> None:
    from flows.bench import DEFAULT_REPEATS
    from flows.bench_contestants import CONTESTANTS
    from flows.parameters import MEASURED_PARAMETERS, add_options
    from tasks.peers.installed import PEERS

    add_options(parser, MEASURED_PARAMETERS)
    parser.add_argument(
        "--baseline-profile", metavar="P", help="profile of the baseline (default: the profile's baseline)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=DEFAULT_REPEATS,
        metavar="N",
        help="how often to measure each contestant (default %(default)s)",
    )
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help=f"measure only some contestants, separated by commas, of {', '.join((*CONTESTANTS, *PEERS))}",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help=f"measure those of {', '.join(PEERS)} as well that are installed here",
    )
    parser.add_argument(
        "--noise-floor",
        action="store_true",
        help="instead, run the baseline three times and store how far rounding makes the runs differ",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(options: argparse.Namespace) -> int:
    from tasks.process_limits import check_limits_of_run

    check_limits_of_run()

    from flows.bench import DEFAULT_QUESTIONS, MOST_REPEATS
    from flows.bench_contestants import choose_contestants
    from flows.parameters import given_parameters
    from tasks.errors import ConfigError
    from tasks.user_paths import check_directory, user_path

    contestants, absent = choose_contestants(options.only, peers=options.peers)
    if not 1 <= options.repeats <= MOST_REPEATS:
        raise ConfigError(f"--repeats is {options.repeats}; it must be from 1 to {MOST_REPEATS}")
    if options.noise_floor and (options.only is not None or options.peers):
        other = "--peers" if options.only is None else "--only"
        raise ConfigError(f"--noise-floor runs the baseline alone, so that {other} has no meaning. Leave one out")
    parameters = {"runs_dir": "runs", "questions": DEFAULT_QUESTIONS, **given_parameters(options)}
    check_directory(user_path(parameters["runs_dir"]), "the runs directory")
    Interruption(_LAST_WORDS)
    if absent:
        _say(absent)
    try:
        return _execute(options, parameters, contestants)
    except KeyboardInterrupt:
        _say(_LAST_WORDS)
        return INTERRUPTED


def _execute(options: argparse.Namespace, parameters: dict[str, Any], contestants: tuple[str, ...]) -> int:
    from dataclasses import asdict

    from flows.bench import Bench
    from flows.console import console
    from flows.reporting.bench_view import render_bench
    from tasks.plan.run_config import DEFAULT_TOP_LOGPROBS

    parameters.setdefault("top_logprobs", DEFAULT_TOP_LOGPROBS)
    bench = Bench(parameters, baseline_profile=options.baseline_profile, log=_say)
    if options.noise_floor:
        floor, path = bench.noise_floor()
        if options.json:
            print_json({**asdict(floor), "path": str(path)})
            return 0
        known = "measured" if floor.measured else "the default, as no tokens differed"
        print_line(
            f"near-tie limit {floor.near_tie_limit:.3g} nats ({known}); {floor.divergences} of {floor.rollouts} "
            f"rollouts differ, {floor.flip_rate:.2%} flip between right and wrong"
        )
        print_line(f"stored in {path}; harvest run --baseline and harvest compare use it from now on")
        return 0
    result = bench.run(contestants, options.repeats)
    if options.json:
        print_json(result.to_json())
    else:
        console().print(render_bench(result))
    return 0


def _say(text: str) -> None:
    print_line(text, sys.stderr)
