"""``harvest view``: the runs of a directory in the browser."""

import contextlib
import logging
from pathlib import Path

import click

from flows.commands.command import command
from flows.commands.common_options import RUNS_DIR, UserPath
from flows.terminal import print_line

PORT = 8484


@command(examples=("harvest view", "harvest view /data/runs --port 9000"))
@click.argument(
    "runs_dir",
    type=UserPath(),
    default=str(RUNS_DIR),
    metavar="[DIR]",
    help="a directory of runs, or a run directory (default runs)",
)
@click.option(
    "--port", type=int, default=PORT, metavar="N", show_default=True, help="port of 127.0.0.1; 0 is any that is free"
)
def view(runs_dir: Path, port: int) -> int:
    """Show the runs of a directory in the browser: list, filter, compare two, follow a running one. They are served on
    this machine until Ctrl-C. The pages are made from the runs' files, which are only read. Who is logged in on this
    machine can open them.
    """
    from tasks.errors import ConfigError
    from tasks.viewing.run_pages import address_of
    from tasks.viewing.run_server import RunServer

    if not 0 <= port < 65_536:
        raise ConfigError(f"--port is {port}; it must be between 0 and 65535")
    if not runs_dir.is_dir():
        raise ConfigError(f"{runs_dir} is not a directory. Give a directory of runs, or collect rollouts first")
    is_run = (runs_dir / "config.json").is_file()
    served = runs_dir.resolve().parent if is_run else runs_dir
    _say_once()
    with RunServer(served, port) as server:
        address = address_of(runs_dir.resolve().name)[1:] if is_run else ""
        print_line(f"view: {server.url}{address} shows {runs_dir}; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def _say_once() -> None:
    """Let the terminal have each warning once: the pages ask for the same files again and again."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in seen:
            return False
        seen.add(message)
        return True

    if logging.lastResort is not None:
        logging.lastResort.addFilter(is_new)
