"""``harvest score``: score a finished run again, without generating."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.commands.common_options import add_run_options
from flows.terminal import print_json, print_line
from tasks.scoring.scorers import SCORER_CHOICES


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "score",
        help="score a run again with another scorer and keep its own scores",
        description="Score every rollout again and list the rewards that changed. The new files go beside the run's "
        "own scores, which stay as they are.",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run id or a run directory")
    add_run_options(parser)
    parser.add_argument(
        "--dry-run",
        metavar="S",
        help="score nothing; try this scorer on ground truths and other texts of the run's dataset, or of the demo's",
    )
    parser.add_argument("--scorer", metavar="S", default="gsm8k", help=f"{SCORER_CHOICES} (default gsm8k)")
    parser.add_argument(
        "--right-at",
        type=float,
        metavar="R",
        help="reward from which a rollout is right in the new set",
    )
    parser.add_argument(
        "--use", metavar="NAME", help="score nothing; make this set of scores the run's own, and keep those that it has"
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.errors import ConfigError
    from tasks.plain_text import one_line
    from tasks.plan.run_directory import find_run
    from tasks.results.rescore import rescore_run

    if options.dry_run is not None:
        return _try(options)
    if options.run is None:
        raise ConfigError("no run is given. Give a run id or a run directory; harvest runs lists them")
    if options.use is not None:
        return _use(find_run(options.run, options.runs_dir), options)
    report = rescore_run(find_run(options.run, options.runs_dir), options.scorer, options.right_at)
    if options.json:
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
    name = report.directory.name.partition("@")[2]
    print_line(f"read them with --scores {name}, or make them the run's: harvest score {options.run} --use {name}")
    return 0


def _try(options: argparse.Namespace) -> int:
    from flows.console import console
    from tasks.plan.run_directory import find_run
    from tasks.results.scorer_trial import try_scorer
    from tasks.results.scorer_trial_view import render_trial

    run_dir = None if options.run is None else find_run(options.run, options.runs_dir)
    trial = try_scorer(options.dry_run, run_dir)
    if options.json:
        print_json(asdict(trial))
    else:
        console().print(render_trial(trial))
    return 0


def _use(run_dir: Path, options: argparse.Namespace) -> int:
    from tasks.results.adopt_scores import adopt_scores

    adopted = adopt_scores(run_dir, options.use)
    if options.json:
        print_json(asdict(adopted))
        return 0
    kept = "" if adopted.kept is None else f"; those that it had are the set {adopted.kept}"
    print_line(f"{run_dir.name} has the scores of {adopted.scorer}, mean reward {_reward(adopted.mean_reward)}{kept}")
    if adopted.comparison_removed:
        print_line("its comparison with a baseline was of other scores and is removed; compare again")
    return 0


def _reward(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
