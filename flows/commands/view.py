"""``harvest view``: the runs of a directory in the browser."""

import argparse
import contextlib
import logging
from typing import Any

from flows.commands.common_options import RUNS_DIR, path_option
from flows.terminal import print_line

PORT = 8484


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "view",
        help="show the runs of a directory in the browser: list, filter, compare two, follow a running one",
        description="Serve the runs of a directory on this machine, until Ctrl-C. The pages are made from the runs' "
        "files, which are only read. Who is logged in on this machine can open them.",
    )
    parser.add_argument(
        "runs_dir",
        nargs="?",
        type=path_option,
        default=str(RUNS_DIR),
        metavar="DIR",
        help="a directory of runs, or a run directory (default runs)",
    )
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"port of 127.0.0.1 (default {PORT}; 0 is any that is free)"
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.errors import ConfigError
    from tasks.viewing.run_pages import address_of
    from tasks.viewing.run_server import RunServer

    if not 0 <= options.port < 65_536:
        raise ConfigError(f"--port is {options.port}; it must be between 0 and 65535")
    given = options.runs_dir
    if not given.is_dir():
        raise ConfigError(f"{given} is not a directory. Give a directory of runs, or collect rollouts first")
    is_run = (given / "config.json").is_file()
    runs_dir = given.resolve().parent if is_run else given
    _say_once()
    with RunServer(runs_dir, options.port) as server:
        address = address_of(given.resolve().name)[1:] if is_run else ""
        print_line(f"view: {server.url}{address} shows {given}; Ctrl-C ends it")
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
