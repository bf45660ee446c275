"""The ``harvest`` command.

Nothing heavy is imported before the arguments are parsed, so that ``harvest --help`` answers at once. EXIT_CODES
says with what it exits.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

from flows.commands.abort_guard import READERS, run_guarded
from flows.server.interruption import INTERRUPTED, RESUMES
from flows.terminal import prepare_output, print_error
from tasks.last_read import last_read

COMMANDS = (
    "run",
    "compare",
    "mismatch",
    "bench",
    "tune",
    "score",
    "runs",
    "show",
    "diff",
    "arms",
    "report",
    "export",
    "node",
    "profiles",
    "transfer",
    "deployments",
)


EXIT_CODES = (
    "exit codes: 0 done; 1 the run failed; 2 refused before anything was loaded: bad input, or a failed preflight; 3 "
    "not equivalent to the baseline; 130 interrupted"
)


class _Parser(argparse.ArgumentParser):
    """A parser that calls ``add_options`` only when its command is given, because that may import slow libraries."""

    def __init__(self, *, add_options: Callable[[argparse.ArgumentParser], None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_options = add_options

    def parse_known_args(self, *arguments: Any, **kwargs: Any) -> Any:
        self.complete()
        return super().parse_known_args(*arguments, **kwargs)

    def complete(self) -> None:
        """Add the options, unless they are there already."""
        if self._add_options is not None:
            self._add_options(self)
            self._add_options = None

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse declares that it never returns
        print_error(f"harvest: error: {message} (see {self.prog} --help)")
        self.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``harvest``, with every command."""
    parser = _Parser(
        prog="harvest",
        description="Fast, safe, checked rollout collection on vLLM under Prefect.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"rollout-harvest {metadata.version('rollout-harvest')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        importlib.import_module(f"flows.commands.{name}").add(commands)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    prepare_output()
    options = build_parser().parse_args(arguments)
    command = partial(exit_code_of, partial(_execute, options))
    # a caller in a process with threads gives its arguments
    guarded = arguments is None and options.command in READERS
    sys.exit(run_guarded(command) if guarded else command())


def _execute(options: argparse.Namespace) -> int:
    from tasks.process_limits import check_address_space
    from tasks.time_limits import time_limit_factor

    # what is wrong around the command is refused before anything starts
    check_address_space()
    _check_text(options)
    time_limit_factor()
    return int(options.execute(options))


def _check_text(options: argparse.Namespace) -> None:
    """Raise ConfigError when an argument is not UTF-8, as the records of a run are."""
    from tasks.errors import ConfigError

    for value in vars(options).values():
        for text in value if isinstance(value, list) else [value]:
            try:
                str(text).encode()
            except UnicodeEncodeError:
                raise ConfigError(f"the argument {str(text)!a} is not UTF-8. Use another name") from None


def exit_code_of(action: Callable[[], int]) -> int:
    """Return the exit code that ``action`` returns, or print its failure as one line and return the code of that."""
    from tasks.errors import HarvestError

    try:
        return action()
    except HarvestError as error:
        print_error(f"harvest: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        print_error(RESUMES)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except MemoryError:
        print_error("harvest: error: memory ran out. Stop other programs, or raise ulimit -v or the container's limit")
        return 1
    except BaseException as error:
        if not _is_of_data(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        print_error(
            f"harvest: error: what {last_read() or 'a file'} holds cannot be used: {reason}. Run the command that made "
            "the run again, or download it again"
        )
        return 1


def _is_of_data(error: BaseException) -> bool:
    """Return whether a library for Parquet files raised the error, so that a file of a run caused it."""
    polars, pyarrow = sys.modules.get("polars"), sys.modules.get("pyarrow")
    # Polars' PanicException is no Exception
    kinds = (polars.exceptions.PolarsError, polars.exceptions.PanicException) if polars else ()
    return isinstance(error, (*kinds, pyarrow.ArrowException) if pyarrow else kinds)


if __name__ == "__main__":
    main()
