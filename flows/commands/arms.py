"""``harvest arms``: rank the arms of a run and test their differences."""

from dataclasses import asdict

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs


@command(examples=("harvest arms latest",))
@reads_runs("run", scores=True)
def arms(runs: Runs, run: str, scores: str | None, json: bool) -> int:
    """Rank the arms by mean reward, with paired tests, cost per correct rollout, agreement, and what an oracle or a
    majority vote over the arms would reach.
    """
    from flows.console import print_result
    from tasks.results.arm_ranking import rank_arms
    from tasks.results.arm_ranking_view import render_ranking
    from tasks.storage.score_sets import find_scores

    run_dir = runs.find(run)
    report = rank_arms(run_dir, scores=find_scores(run_dir, scores))
    return print_result(asdict(report), lambda: render_ranking(report), json=json, paged=True)
