"""``harvest upload``, ``verify``, ``download`` and ``push``: copy runs to other storage and back, and check them."""

import argparse
from dataclasses import asdict
from typing import Any

from flows.commands.common_options import (
    RUNS_DIR,
    add_credentials_option,
    add_run_options,
    chosen_transfer,
    path_option,
)
from flows.terminal import print_error, print_json, print_line


def add(commands: Any) -> None:
    upload = commands.add_parser(
        "upload",
        add_options=add_credentials_option,
        help="upload a finished run, or complete an interrupted upload",
    )
    add_run_options(upload, "run", urls=False)
    upload.add_argument("url", metavar="URL", help="directory or s3:// URL; the run goes to URL/RUN_ID")
    upload.add_argument(
        "--verify",
        choices=("sample", "full"),
        default="sample",
        help="read back a sample of the files, or all (default sample)",
    )
    upload.set_defaults(execute=execute_upload)

    verify = commands.add_parser(
        "verify",
        add_options=add_credentials_option,
        help="hash the files of a run again; list the damaged ones and exit with 1 if there are any",
    )
    verify.add_argument("url", metavar="URL", help="the uploaded run, URL/RUN_ID, or a run directory")
    verify.set_defaults(execute=execute_verify)

    download = commands.add_parser(
        "download", add_options=add_credentials_option, help="download an uploaded run and verify it"
    )
    download.add_argument("url", metavar="URL", help="the uploaded run: URL/RUN_ID")
    download.add_argument("directory", metavar="DIR", type=path_option, help="the run goes to DIR/RUN_ID")
    download.set_defaults(execute=execute_download)

    push = commands.add_parser("push", help="push a run to a dataset repository on the Hugging Face hub")
    add_run_options(push, "run", urls=False)
    push.add_argument("repository", metavar="ORG/NAME", help="dataset repository")
    push.add_argument("--public", action="store_true", help="make the repository public if it is new")
    push.set_defaults(execute=execute_push)

    for parser in (verify, download):
        parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute_upload(options: argparse.Namespace) -> int:
    from tasks.plan.run_directory import find_run
    from tasks.storage.upload import upload_run

    run_dir = find_run(options.run, options.runs_dir)
    transfer = chosen_transfer(options, options.runs_dir)
    record = upload_run(run_dir, options.url, verify=options.verify, transfer=transfer)
    text = f"{record.url}: {len(record.files)} files, {record.files_sent} sent now ({record.bytes_sent:,} bytes)"
    return _print(options, asdict(record), text)


def execute_verify(options: argparse.Namespace) -> int:
    from tasks.storage.manifest import CONFIG
    from tasks.storage.verify import verify_run, verify_upload
    from tasks.user_paths import is_url, user_path

    local = None if is_url(options.url) else user_path(options.url)
    if local is not None and (local / CONFIG).exists() and (local / "state").is_dir():
        report = verify_run(local)
        good = f"{report.url}: {report.files} files, {report.bytes:,} bytes, all as they were published"
    else:
        report = verify_upload(options.url, chosen_transfer(options, RUNS_DIR))
        good = f"{report.url}: {report.files} files, {report.bytes:,} bytes, all as the manifest says"
    _print(options, asdict(report), *(report.problems or (good,)))
    if report.problems and not options.json:
        print_error(f"harvest: {len(report.problems)} problems at {report.url}")
    return 1 if report.problems else 0


def execute_download(options: argparse.Namespace) -> int:
    from tasks.storage.download import download_run

    run_dir = download_run(options.url, options.directory, chosen_transfer(options, RUNS_DIR))
    return _print(options, {"run_dir": str(run_dir)}, f"run directory: {run_dir}")


def execute_push(options: argparse.Namespace) -> int:
    from tasks.export.hub import push_to_hub
    from tasks.plan.run_directory import find_run

    url = push_to_hub(find_run(options.run, options.runs_dir), options.repository, private=not options.public)
    return _print(options, {"url": url}, url)


def _print(options: argparse.Namespace, value: dict[str, Any], *lines: str) -> int:
    if options.json:
        print_json(value)
    else:
        for line in lines:
            print_line(line)
    return 0
