"""``harvest arms``: rank the arms of a run and test their differences."""

from dataclasses import asdict

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json


@command(examples=("harvest arms latest",))
@reads_runs("run")
def arms(runs: Runs, run: str, json: bool) -> int:
    """Rank the arms by mean reward, with paired tests, cost per correct rollout, agreement, and what an oracle or a
    majority vote over the arms would reach."""
    from tasks.results.arm_ranking import rank_arms

    report = rank_arms(runs.find(run))
    if json:
        print_json(asdict(report))
        return 0

    from flows.console import print_paged
    from tasks.results.arm_ranking_view import render_ranking

    print_paged(render_ranking(report))
    return 0
