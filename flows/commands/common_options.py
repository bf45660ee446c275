"""Arguments that several commands take: runs, the directory of runs, JSON output and credentials for ``s3://`` URLs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.storage.filesystems import TransferSettings

RUNS_DIR = Path("runs")
"""Where runs are kept by default."""


def add_run_options(
    parser: argparse.ArgumentParser, *runs: str, urls: bool = True, json_help: str = "print the result as JSON"
) -> None:
    """Add a positional argument for each name in ``runs``, ``--runs-dir`` and ``--json``.

    ``urls`` says whether a run may be a URL.
    """
    for name in runs:
        kinds = "a run id, a run directory or a URL" if urls else "a run id or a run directory"
        parser.add_argument(name, metavar=name.upper(), help=kinds)
    parser.add_argument(
        "--runs-dir", type=path_option, default=str(RUNS_DIR), metavar="DIR", help="where runs are kept (default runs)"
    )
    parser.add_argument("--json", action="store_true", help=json_help)


def add_scores_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--scores``."""
    parser.add_argument(
        "--scores", metavar="NAME", help="use this set of scores, made by harvest score (default: the run's own)"
    )


def path_option(text: str) -> Path:
    """Return the path that an option or argument names. Raises ArgumentTypeError."""
    from tasks.errors import ConfigError
    from tasks.user_paths import user_path

    try:
        return user_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_credentials_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--aws-credentials-block``. Imports pydantic, so a command gives it as its ``add_options``."""
    from flows.parameters import add_options

    add_options(parser, ["aws_credentials_block"])


def chosen_transfer(options: argparse.Namespace, runs_dir: Path) -> "TransferSettings | None":
    """Return transfer settings with the credentials of the block in ``options``; None when no block is named.

    Reads the block from the Prefect server that is set up, else from the embedded one of ``runs_dir``. Raises
    ConfigError when the block cannot be used.
    """
    block: str | None = options.aws_credentials_block
    if block is None:
        return None
    from flows.server.embedded_server import EmbeddedServer
    from flows.server.prefect_environment import configure_prefect

    if configure_prefect(runs_dir):
        EmbeddedServer().wait_until_ready()

    from flows.server.aws_credentials import transfer_with

    return transfer_with(block)
