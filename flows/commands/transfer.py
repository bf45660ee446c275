"""``harvest upload``, ``verify``, ``download`` and ``push``: copy runs to other storage and back, and check them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flows.commands.command import command, flag
from flows.commands.common_options import RUNS_DIR, Runs, UserPath, reads_runs
from flows.commands.parameter_options import parameter_options
from flows.terminal import print_error, print_json, print_line

_HOW_MUCH = click.Choice(("sample", "full"))


@command(examples=("harvest upload latest s3://bucket/rollouts --verify full",), resumes=True)
@reads_runs("run", urls=False)
@click.argument("url", help="directory or s3:// URL; the run goes to URL/RUN_ID")
@click.option(
    "--verify", type=_HOW_MUCH, metavar="sample|full", default="sample", help="read back a sample of the files, or all"
)
def upload(runs: Runs, run: str, url: str, verify: Any, json: bool) -> int:
    """Upload a finished run, or complete an interrupted upload."""
    from tasks.storage.upload import upload_run

    record = upload_run(runs.find(run), url, verify=verify, transfer=runs.transfer)
    text = f"{record.url}: {len(record.files)} files, {record.files_sent} sent now ({record.bytes_sent:,} bytes)"
    return _print(json, asdict(record), text)


@command(examples=("harvest verify latest", "harvest verify s3://bucket/rollouts/RUN_ID"))
@reads_runs("url", help="the uploaded run, URL/RUN_ID, or a run here: its id or how it begins, latest, its directory")
def verify(runs: Runs, url: str, json: bool) -> int:
    """Hash the files of a run again; list the damaged ones and exit with 1 if there are any."""
    from tasks.plan.run_directory import find_run
    from tasks.storage.manifest import CONFIG
    from tasks.storage.verify import verify_run, verify_upload
    from tasks.user_paths import is_url, user_path

    local = None if is_url(url) else user_path(url) if user_path(url).exists() else find_run(url, runs.directory)
    if local is not None and (local / CONFIG).exists() and (local / "state").is_dir():
        report = verify_run(local)
        good = f"{report.url}: {report.files} files, {report.bytes:,} bytes, all as they were published"
    else:
        report = verify_upload(url, runs.transfer)
        good = f"{report.url}: {report.files} files, {report.bytes:,} bytes, all as the manifest says"
    _print(json, asdict(report), *(report.problems or (good,)))
    if report.problems and not json:
        print_error(f"harvest: {len(report.problems)} problems at {report.url}")
    return 1 if report.problems else 0


@command(
    resumes=True,
    examples=(
        "harvest download s3://bucket/rollouts/RUN_ID runs",
        "harvest download s3://bucket/rollouts/RUN_ID runs --unfinished",
    ),
)
@click.argument("url", help="the uploaded run: URL/RUN_ID")
@click.argument("directory", metavar="DIR", type=UserPath(), help="the run goes to DIR/RUN_ID")
@flag("--unfinished", "bring back what an unfinished upload holds, as when its machine is lost; harvest run goes on")
@flag("--json", "print the result as JSON")
@parameter_options(("aws_credentials_block",))
def download(url: str, directory: Path, unfinished: bool, json: bool, aws_credentials_block: str | None) -> int:
    """Download an uploaded run and verify it."""
    from tasks.results.unfinished_upload import download_unfinished
    from tasks.storage.download import download_run

    transfer = Runs(RUNS_DIR, aws_credentials_block).transfer
    if unfinished:
        found = download_unfinished(url, directory, transfer)
        told = (
            *(f"left out: {reason}" for reason in found.left_out),
            f"run directory: {found.run_dir}, with {found.rollouts:,} rollouts. The command that made the run goes on "
            f"there, with --runs-dir {directory}",
        )
        return _print(json, {**asdict(found), "run_dir": str(found.run_dir)}, *told)
    run_dir = download_run(url, directory, transfer)
    return _print(json, {"run_dir": str(run_dir)}, f"run directory: {run_dir}")


@command(examples=("harvest push latest my-org/rollouts",))
@reads_runs("run", urls=False, credentials=False)
@click.argument("repository", metavar="ORG/NAME", help="dataset repository")
@flag("--public", "make the repository public if it is new")
def push(runs: Runs, run: str, repository: str, public: bool, json: bool) -> int:
    """Push a run to a dataset repository on the Hugging Face hub."""
    from tasks.export.hub import push_to_hub

    url = push_to_hub(runs.find(run), repository, private=not public)
    return _print(json, {"url": url}, url)


def _print(json: bool, value: dict[str, Any], *lines: str) -> int:
    if json:
        print_json(value)
    else:
        for line in lines:
            print_line(line)
    return 0
