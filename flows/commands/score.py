"""``harvest score``: score a finished run again, without generating."""

import argparse
from dataclasses import asdict
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
    add_run_options(parser, "run", urls=False)
    parser.add_argument("--scorer", metavar="S", default="gsm8k", help=f"{SCORER_CHOICES} (default gsm8k)")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.plain_text import one_line
    from tasks.plan.run_directory import find_run
    from tasks.results.rescore import rescore_run

    report = rescore_run(find_run(options.run, options.runs_dir), options.scorer)
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
    return 0


def _reward(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
