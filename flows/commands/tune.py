"""``harvest tune``: find a profile's fastest settings on this node, by measuring."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.common_options import path_option
from flows.commands.profiles import check_profile_file, save_profile
from flows.server.interruption import INTERRUPTED, Interruption
from flows.terminal import print_json, print_line

if TYPE_CHECKING:
    from flows.tune import Tuner

DEFAULT_MINUTES = 2.0
MOST_MINUTES = 24 * 60.0
DEFAULT_FILE = "tuned.toml"
_LAST_WORDS = "harvest: interrupted; a search does not resume; the same command with --force starts from the beginning"


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "tune",
        add_options=_add_options,
        help="find a profile's fastest settings on this node, and save them",
        description="Collect with your prompts, arms and sampling for some minutes under each of a few candidates: the "
        "engine core in its own process or not, engines per GPU, sequences at once. Print what each came to, and save "
        "the fastest as a profile.",
    )
    parser.set_defaults(execute=execute)


def _add_options(parser: argparse.ArgumentParser) -> None:
    from flows.parameters import MEASURED_PARAMETERS, add_options

    add_options(parser, MEASURED_PARAMETERS)
    parser.add_argument(
        "--minutes",
        type=float,
        default=DEFAULT_MINUTES,
        metavar="X",
        help="how long each candidate generates; a run that is over earlier ends then (default %(default)g)",
    )
    parser.add_argument(
        "--save", type=path_option, default=DEFAULT_FILE, metavar="FILE", help="where to save it (default %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file of --save")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(options: argparse.Namespace) -> int:
    from tasks.process_limits import check_limits_of_run

    check_limits_of_run()

    import datetime

    from flows.commands.run import check_input
    from flows.parameters import given_parameters
    from flows.tune import Tuner
    from tasks.errors import ConfigError
    from tasks.node.prompt_check import check_rendered
    from tasks.plan.placeholders import fill_placeholders
    from tasks.user_paths import user_path

    if not 0 < options.minutes <= MOST_MINUTES or not math.isfinite(options.minutes):
        raise ConfigError(f"--minutes is {options.minutes:g}; it must be above 0 and at most {MOST_MINUTES:g}")
    check_profile_file(options.save, force=options.force)
    parameters = fill_placeholders(given_parameters(options), datetime.date.today())
    plan, *_ = check_input(parameters, user_path(parameters.setdefault("runs_dir", "runs")))
    check_rendered(plan)
    for told in plan.choices:
        _say(told)
    tuner = Tuner(plan, parameters, minutes=options.minutes, log=_say)
    Interruption(_LAST_WORDS)
    try:
        finished = tuner.run(on_interrupt=lambda: _finish(options, tuner))
    except KeyboardInterrupt:
        finished = False
    if not finished:
        _say(_LAST_WORDS)
        return INTERRUPTED
    return _finish(options, tuner)


def _finish(options: argparse.Namespace, tuner: "Tuner") -> int:
    from dataclasses import asdict

    from flows.console import console
    from flows.reporting.tune_view import render_trials
    from tasks.results.tuning import too_short

    best = tuner.best()
    if options.json:
        print_json(
            {
                "trials": [asdict(trial) for trial in tuner.trials],
                "fastest": None if best is None else best.trial.label,
                "saved": None if best is None else str(options.save),
                "directory": str(tuner.directory),
            }
        )
    elif tuner.trials:
        console().print(render_trials(tuner.trials))
    if best is None:
        _say("harvest: no candidate was measured, so nothing is saved")
        return 1
    if told := too_short(tuner.trials):
        _say(told)
    _say(f"fastest: {best.trial.label}, {best.trial.tokens_per_s:,.0f} tokens/s; runs and logs: {tuner.directory}")
    save_profile(Path(options.save), best.text)
    return 0


def _say(text: str) -> None:
    print_line(text, sys.stderr)
