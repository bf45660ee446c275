"""``harvest tune``: find a profile's fastest settings on this node, by measuring."""

import datetime
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.command import command, flag
from flows.commands.common_options import UserPath
from flows.commands.parameter_options import given_parameters, parameter_options
from flows.commands.profiles import check_profile_file, save_profile
from flows.commands.run import check_input
from flows.parameters import MEASURED_PARAMETERS
from flows.server.interruption import INTERRUPTED, Interruption
from flows.terminal import print_json, say
from tasks.errors import ConfigError

if TYPE_CHECKING:
    from flows.tune import Tuner

MOST_MINUTES = 24 * 60.0
_LAST_WORDS = "harvest: interrupted; a search does not resume; the same command with --force starts from the beginning"


@command(examples=("harvest tune --model Qwen/Qwen2.5-7B-Instruct --save mine.toml",))
@click.option(
    "--minutes",
    type=float,
    default=2.0,
    metavar="X",
    help="how long each candidate generates; a run that is over earlier ends then",
)
@click.option("--save", type=UserPath(), default="tuned.toml", metavar="FILE", help="where to save it")
@flag("--force", "replace the file of --save")
@parameter_options(MEASURED_PARAMETERS)
@flag("--json", "print the result as JSON")
def tune(minutes: float, save: Path, force: bool, json: bool, **given: Any) -> int:
    """Collect with your prompts, arms and sampling for some minutes under each of a few candidates: the engine core in
    its own process or not, engines per GPU, sequences at once. Print what each came to, and save the fastest as a
    profile.
    """
    from tasks.process_limits import check_limits_of_run

    check_limits_of_run()

    from flows.tune import Tuner
    from tasks.node.prompt_check import check_rendered
    from tasks.plan.placeholders import fill_placeholders
    from tasks.user_paths import user_path

    if not 0 < minutes <= MOST_MINUTES or not math.isfinite(minutes):
        raise ConfigError(f"--minutes is {minutes:g}; it must be above 0 and at most {MOST_MINUTES:g}")
    check_profile_file(save, force=force)
    parameters = fill_placeholders(given_parameters(given), datetime.date.today())
    plan, *_ = check_input(parameters, user_path(parameters.setdefault("runs_dir", "runs")))
    check_rendered(plan)
    for told in plan.choices:
        say(told)
    tuner = Tuner(plan, parameters, minutes=minutes, log=say)
    Interruption(_LAST_WORDS)
    try:
        finished = tuner.run(on_interrupt=lambda: _finish(tuner, save, json))
    except KeyboardInterrupt:
        finished = False
    if not finished:
        say(_LAST_WORDS)
        return INTERRUPTED
    return _finish(tuner, save, json)


def _finish(tuner: "Tuner", save: Path, json: bool) -> int:
    from flows.console import console
    from flows.reporting.tune_view import render_trials
    from tasks.results.tuning import too_short

    best = tuner.best()
    if json:
        print_json(
            {
                "trials": [asdict(trial) for trial in tuner.trials],
                "fastest": None if best is None else best.trial.label,
                "saved": None if best is None else str(save),
                "directory": str(tuner.directory),
            }
        )
    elif tuner.trials:
        console().print(render_trials(tuner.trials))
    if best is None:
        say("harvest: no candidate was measured, so nothing is saved")
        return 1
    if told := too_short(tuner.trials):
        say(told)
    say(f"fastest: {best.trial.label}, {best.trial.tokens_per_s:,.0f} tokens/s; runs and logs: {tuner.directory}")
    save_profile(save, best.text)
    return 0
