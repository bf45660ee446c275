"""``harvest export``: write a finished run as training data in the columns that a trainer reads."""

import argparse
from dataclasses import asdict
from typing import Any

from flows.commands.common_options import add_credentials_option, add_run_options, add_scores_option, chosen_transfer
from flows.terminal import print_json, print_line


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        add_options=_add_options,
        help="write a run as training data: in the columns of a trainer, or as Parquet or JSON lines",
        description="Write the run's rollouts in the columns that a trainer reads, with the token ids as sampled. "
        "Error rows are left out. Filters apply in the order in which they are listed.",
    )
    parser.set_defaults(execute=execute)


def _add_options(parser: argparse.ArgumentParser) -> None:
    from tasks.export.formats import FORMATS

    add_run_options(parser, "run", json_help="print the export's manifest as JSON")
    add_scores_option(parser)
    parser.add_argument("--to", required=True, metavar="TARGET", help=", ".join(FORMATS))
    parser.add_argument("--out", required=True, metavar="DIR", help="a new or empty directory, or an s3:// URL")
    parser.add_argument("--arms", metavar="A,B", help="only these arms")
    parser.add_argument("--include-errors", action="store_true", help="keep error rows (parquet and jsonl only)")
    parser.add_argument(
        "--drop-gold-suspects", action="store_true", help="leave out questions whose ground truth is known to be wrong"
    )
    parser.add_argument(
        "--drop-zero-variance", action="store_true", help="leave out groups whose rewards are all equal"
    )
    parser.add_argument("--drop-truncated", action="store_true", help="leave out rollouts that max_tokens cut off")
    parser.add_argument("--min-reward", type=float, metavar="R", help="only rollouts with at least this reward")
    parser.add_argument("--max-per-group", type=int, metavar="N", help="at most N rollouts per question and arm")
    parser.add_argument(
        "--advantages",
        action="store_true",
        help="add the column advantage, relative to the rollouts of the same prompt, for GRPO (parquet and jsonl only)",
    )
    add_credentials_option(parser)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.export.export_run import export_run
    from tasks.export.filters import ExportFilters
    from tasks.storage.score_sets import find_scores

    filters = ExportFilters(
        arms=() if options.arms is None else tuple(name.strip() for name in options.arms.split(",")),
        include_errors=options.include_errors,
        drop_gold_suspects=options.drop_gold_suspects,
        drop_zero_variance=options.drop_zero_variance,
        drop_truncated=options.drop_truncated,
        min_reward=options.min_reward,
        max_per_group=options.max_per_group,
    )
    transfer = chosen_transfer(options, options.runs_dir)
    run_dir = find_baseline(options.run, options.runs_dir, transfer)
    scores = find_scores(run_dir, options.scores)
    report = export_run(
        run_dir, options.to, options.out, filters, transfer, advantages=options.advantages, scores=scores
    )
    if options.json:
        print_json(asdict(report))
        return 0
    size = sum(file.bytes for file in report.files)
    print_line(
        f"{report.url}: {report.rollouts:,} of {report.rollouts_read:,} rollouts in {report.groups:,} groups for "
        f"{report.source}, {len(report.files)} files, {size:,} bytes"
    )
    for reason, count in report.dropped.items():
        print_line(f"  left out: {count:,} ({reason})")
    for told in report.warnings:
        print_line(f"  warning: {told}")
    return 0
