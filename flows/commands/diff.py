"""``harvest diff``: list the rollouts that are right in one run and wrong in another."""

from dataclasses import asdict

import click

from flows.commands.command import Whole, command
from flows.commands.common_options import Runs, reads_runs


@command(examples=("harvest diff BEFORE latest --limit 50",))
@click.option("--arm", metavar="A", help="only this arm")
@click.option("--limit", type=Whole(0), metavar="N", default=10, help="list at most N rollouts")
@reads_runs("run_a", "run_b", scores=True)
def diff(runs: Runs, run_a: str, run_b: str, arm: str | None, limit: int, scores: str | None, json: bool) -> int:
    """Compare the rewards of two scored runs over the same questions, whatever else differs. For a verdict on whether
    two runs are the same, see harvest compare.
    """
    from flows.console import print_result
    from tasks.results.run_diff import diff_runs, render_diff
    from tasks.storage.score_sets import find_scores

    first, second = runs.find(run_a), runs.find(run_b)
    sets = (find_scores(first, scores), find_scores(second, scores))
    found = diff_runs(first, second, most=limit, arm=arm, scores=sets)
    return print_result(asdict(found), lambda: render_diff(found), json=json, paged=True)
