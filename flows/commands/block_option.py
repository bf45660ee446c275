"""``--aws-credentials-block``: credentials for one command from the Prefect server that is set up."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.storage.filesystems import TransferSettings


def add_block_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--aws-credentials-block",
        metavar="NAME",
        type=_name,
        help="for s3:// URLs, take credentials from this AWS Credentials block of Prefect, or from secret/NAME "
        "(default: environment, profile or role)",
    )


def _name(text: str) -> str:
    from flows.parameters import block_name

    return block_name(text)


def chosen_transfer(options: argparse.Namespace, runs_dir: Path) -> "TransferSettings | None":
    """With the credentials of the block that was named; None when none was. Raises ConfigError."""
    block: str | None = options.aws_credentials_block
    if block is None:
        return None
    from flows.server.embedded_server import EmbeddedServer
    from flows.server.prefect_environment import configure_prefect

    if configure_prefect(runs_dir):
        EmbeddedServer().wait_until_ready()

    from flows.server.aws_credentials import transfer_with

    return transfer_with(block)
