"""``harvest score``: score a finished run again, without generating."""

from dataclasses import asdict

import click

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json, print_line
from tasks.scoring.scorers import SCORER_CHOICES


@command(examples=("harvest score latest --scorer math",))
@click.option("--scorer", metavar="S", default="gsm8k", help=SCORER_CHOICES)
@reads_runs("run", urls=False, credentials=False)
def score(runs: Runs, run: str, scorer: str, json: bool) -> int:
    """Score every rollout again and list the rewards that changed. The new files go beside the run's own scores, which
    stay as they are.
    """
    from tasks.plain_text import one_line
    from tasks.results.rescore import rescore_run

    report = rescore_run(runs.find(run), scorer)
    if json:
        print_json({**asdict(report), "directory": str(report.directory)})
        return 0
    old, new = (_reward(mean) for mean in (report.old_mean_reward, report.new_mean_reward))
    print_line(
        f"{report.scorer} {report.scorer_version}: {report.rollouts:,} rollouts scored, {report.changed:,} rewards "
        f"changed, mean reward {old} -> {new}"
    )
    for change in report.changes:
        read = one_line(f"{change.old_extracted!r} -> {change.new_extracted!r}", 100)
        name = one_line(change.rollout_id, 200)
        print_line(f"  {name}: {_reward(change.old_reward)} -> {_reward(change.new_reward)} (read {read})")
    if report.changed > len(report.changes):
        print_line(f"  and {report.changed - len(report.changes):,} more, in changes.parquet")
    print_line(f"scores: {report.directory}")
    return 0


def _reward(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
