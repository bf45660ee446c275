"""``harvest score``: score a finished run again, without generating."""

from dataclasses import asdict
from pathlib import Path

import click

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json, print_line
from tasks.errors import ConfigError
from tasks.scoring.scorers import SCORER_CHOICES


@command(
    examples=(
        "harvest score latest --scorer math",
        "harvest score latest --use math",
        "harvest score --dry-run my_scorer.py:exact",
    )
)
@click.option(
    "--dry-run",
    metavar="S",
    help="score nothing; try this scorer on ground truths and other texts of the run's dataset, or of the demo's",
)
@click.option("--scorer", metavar="S", default="gsm8k", help=SCORER_CHOICES)
@click.option("--right-at", type=float, metavar="R", help="reward from which a rollout is right in the new set")
@click.option(
    "--use", metavar="NAME", help="score nothing; make this set of scores the run's own, and keep those that it has"
)
@reads_runs("run", urls=False, credentials=False, required=False)
def score(
    runs: Runs,
    run: str | None,
    dry_run: str | None,
    scorer: str,
    right_at: float | None,
    use: str | None,
    json: bool,
) -> int:
    """Score every rollout again and list the rewards that changed. The new files go beside the run's own scores, which
    stay as they are.
    """
    from tasks.plain_text import one_line
    from tasks.results.rescore import rescore_run

    if dry_run is not None:
        return _try(dry_run, None if run is None else runs.find(run), json=json)
    if run is None:
        raise ConfigError("no run is given. Give a run id or a run directory; harvest runs lists them")
    if use is not None:
        return _use(runs.find(run), use, json=json)
    report = rescore_run(runs.find(run), scorer, right_at)
    if json:
        print_json({**asdict(report), "directory": str(report.directory)})
        return 0
    old, new = (_reward(mean) for mean in (report.old_mean_reward, report.new_mean_reward))
    of_what = " of the first samples" if report.has_rule else ""
    print_line(
        f"{report.scorer} {report.scorer_version}: {report.rollouts:,} rollouts scored, {report.changed:,} rewards "
        f"changed, mean reward{of_what} {old} -> {new}"
    )
    for change in report.changes:
        read = one_line(f"{change.old_extracted!r} -> {change.new_extracted!r}", 100)
        name = one_line(change.rollout_id, 200)
        print_line(f"  {name}: {_reward(change.old_reward)} -> {_reward(change.new_reward)} (read {read})")
    if report.changed > len(report.changes):
        print_line(f"  and {report.changed - len(report.changes):,} more, in changes.parquet")
    print_line(f"scores: {report.directory}")
    name = report.directory.name.partition("@")[2]
    print_line(f"read them with --scores {name}, or make them the run's: harvest score {run} --use {name}")
    return 0


def _try(scorer: str, run_dir: Path | None, *, json: bool) -> int:
    from flows.console import print_result
    from tasks.results.scorer_trial import try_scorer
    from tasks.results.scorer_trial_view import render_trial

    trial = try_scorer(scorer, run_dir)
    return print_result(asdict(trial), lambda: render_trial(trial), json=json)


def _use(run_dir: Path, name: str, *, json: bool) -> int:
    from tasks.results.adopt_scores import adopt_scores

    adopted = adopt_scores(run_dir, name)
    if json:
        print_json(asdict(adopted))
        return 0
    kept = "" if adopted.kept is None else f"; those that it had are the set {adopted.kept}"
    print_line(f"{run_dir.name} has the scores of {adopted.scorer}, mean reward {_reward(adopted.mean_reward)}{kept}")
    if adopted.comparison_removed:
        print_line("its comparison with a baseline was of other scores and is removed; compare again")
    return 0


def _reward(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
