"""``harvest show``: print rollouts of a run."""

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from flows.commands.command import Decorator, Whole, command, flag
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json
from tasks.errors import ConfigError

if TYPE_CHECKING:
    from tasks.results.rollout_search import Outcome

_ANY = Whole(0)


def _outcome(name: str, text: str) -> Decorator:
    return click.option(f"--{name}", "outcome", flag_value=name, multiple=True, default=(), help=f"only {text}")


@command(examples=("harvest show latest --wrong --limit 3", "harvest show latest --json | head"))
@click.option("--arm", metavar="A", help="only this arm")
@click.option("--example", metavar="ID", help="only this question")
@_outcome("right", "right answers")
@_outcome("wrong", "wrong answers")
@_outcome("error", "error rows")
@flag("--truncated", "only rollouts that max_tokens cut off")
@click.option("--limit", type=_ANY, metavar="N", default=20, help="at most N; 0 is all")
@reads_runs("run", scores=True, json="print one JSON object per line and rollout")
def show(
    runs: Runs, run: str, outcome: tuple["Outcome", ...], limit: int, scores: str | None, json: bool, **chosen: Any
) -> int:
    """Print rollouts of a run, finished or not, in order. On a terminal the output is paged."""
    from tasks.results.rollout_search import RolloutFilter, count_rollouts, find_rollouts
    from tasks.storage.score_sets import find_scores

    if len({*outcome}) > 1:
        raise ConfigError(f"--{outcome[0]} and --{outcome[1]} exclude each other. Give one of them")
    run_dir = runs.find(run)
    wanted = RolloutFilter(outcome=next(iter(outcome), None), **chosen)
    read = find_scores(run_dir, scores)
    rollouts = islice(find_rollouts(run_dir, wanted, read), min(limit, sys.maxsize) or None)
    if json:
        for rollout in rollouts:
            print_json(rollout, indent=None)
        return 0

    from flows.console import print_paged
    from tasks.results.rollout_search import render_rollouts
    from tasks.results.run_state import run_state

    shown = list(rollouts)
    found = count_rollouts(run_dir, wanted, read)
    print_paged(render_rollouts(shown, shown=len(shown), found=found, state=run_state(run_dir)))
    return 0
