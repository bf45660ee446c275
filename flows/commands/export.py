"""``harvest export``: write a finished run as training data in the columns that a trainer reads."""

from dataclasses import asdict
from typing import Any

import click

from flows.commands.command import command, flag
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json, print_line

TARGETS = ("verl", "trl", "openrlhf", "prime-rl", "parquet", "jsonl")


@command(
    examples=(
        "harvest export latest --to verl --out data/verl",
        "harvest export latest --to jsonl --out data/grpo --advantages",
        "harvest export latest --to trl --out data/grpo --group-size 8 --balance",
        "harvest export latest --to trl --out data/sft --best 1",
    ),
)
@click.option("--to", required=True, type=click.Choice(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
@click.option("--out", required=True, metavar="DIR", help="a new or empty directory, or an s3:// URL")
@click.option("--arms", metavar="A,B", help="only these arms")
@flag("--include-errors", "keep error rows (parquet and jsonl only)")
@click.option("--drop-gold-suspects", is_flag=True, help="no questions whose ground truth is known as wrong")
@click.option("--min-pass-rate", type=float, metavar="P", help="only groups with at least this share of right rollouts")
@click.option("--max-pass-rate", type=float, metavar="P", help="only groups with at most this share of right rollouts")
@flag("--drop-zero-variance", "leave out groups whose rewards are all equal")
@flag("--drop-truncated", "leave out rollouts that max_tokens cut off")
@click.option("--min-reward", type=float, metavar="R", help="only rollouts with at least this reward")
@click.option("--max-per-group", type=int, metavar="N", help="at most N rollouts per question and arm")
@click.option("--group-size", type=int, metavar="G", help="exactly G rollouts per question and arm; smaller groups go")
@flag("--balance", "with --group-size: half right, half wrong; groups of one outcome go")
@click.option("--best", type=int, metavar="N", help="at most the N best right rollouts, for supervised fine-tuning")
@click.option(
    "--advantages",
    is_flag=True,
    help="add the column advantage, relative to the rollouts of the same prompt, for GRPO (parquet and jsonl only)",
)
@reads_runs("run", scores=True, json="print the export's manifest as JSON")
def export(
    runs: Runs,
    run: str,
    to: str,
    out: str,
    arms: str | None,
    advantages: bool,
    scores: str | None,
    json: bool,
    **chosen: Any,
) -> int:
    """Write the run's rollouts in the columns that a trainer reads, with the token ids as sampled. Error rows are left
    out. Filters apply in the order in which they are listed.
    """
    from tasks.export.export_run import export_run
    from tasks.export.filters import ExportFilters
    from tasks.storage.score_sets import find_scores

    filters = ExportFilters(arms=tuple(name.strip() for name in arms.split(",")) if arms is not None else (), **chosen)
    run_dir = runs.find(run)
    read = find_scores(run_dir, scores)
    report = export_run(run_dir, to, out, filters, runs.transfer, advantages=advantages, scores=read)
    if json:
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
