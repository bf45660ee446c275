"""Arguments that several commands take: runs, the directory of runs, JSON output and credentials for ``s3://`` URLs."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from flows.commands.command import Decorator, flag
from flows.commands.parameter_options import complete_runs, parameter_options
from tasks.errors import ConfigError
from tasks.user_paths import user_path

if TYPE_CHECKING:
    from tasks.storage.filesystems import TransferSettings

RUNS_DIR = Path("runs")
"""Where runs are kept by default."""


class UserPath(click.ParamType[Path]):
    """A path as a user writes it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        try:
            return user_path(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Runs:
    """The runs that a command reads: those of a directory, and any at a path or, if ``urls`` says so, a URL."""

    def __init__(self, runs_dir: Path, block: str | None = None, *, urls: bool = True) -> None:
        self.directory = runs_dir
        self._block = block
        self._urls = urls

    def find(self, name: str) -> Path:
        """Return the local directory of the run ``name``. Raises ConfigError and UploadError."""
        from tasks.comparison.baseline import find_baseline
        from tasks.plan.run_directory import find_run

        return find_baseline(name, self.directory, self.transfer) if self._urls else find_run(name, self.directory)

    @functools.cached_property
    def transfer(self) -> "TransferSettings | None":
        """Transfer settings with the credentials of the block; None when no block is named.

        Reads the block from the Prefect server that is set up, else from the embedded one of the directory. Raises
        ConfigError when the block cannot be used.
        """
        if self._block is None:
            return None
        from flows.server.embedded_server import EmbeddedServer
        from flows.server.prefect_environment import configure_prefect

        if configure_prefect(self.directory):
            EmbeddedServer().wait_until_ready()

        from flows.server.aws_credentials import transfer_with

        return transfer_with(self._block)


def reads_runs(
    *names: str,
    urls: bool = True,
    credentials: bool = True,
    scores: bool = False,
    json: str = "print the result as JSON",
    **settings: Any,
) -> Decorator:
    """Return the decorator of a function of ``runs``, an object of the class Runs, and ``json``.

    It adds an argument for each name, which is a run, ``--runs-dir``, ``--json``, the option for credentials and, if
    ``scores`` says so, ``--scores``.
    """
    text = f"a run: its id or how it begins, latest, its directory{' or a URL' if urls else ''}"
    arguments = {"help": text, "required": True, "shell_complete": complete_runs, **settings}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def execute(*, runs_dir: Path, aws_credentials_block: str | None = None, **given: Any) -> Any:
            return function(Runs(runs_dir, aws_credentials_block, urls=urls), **given)

        functools.update_wrapper(execute, function)
        if scores:
            text = "use this set of scores, made by harvest score (default: the run's own)"
            execute = click.option("--scores", metavar="NAME", help=text)(execute)
        if credentials:
            execute = parameter_options(("aws_credentials_block",))(execute)
        execute = flag("--json", json)(execute)
        execute = click.option(
            "--runs-dir", type=UserPath(), default="runs", metavar="DIR", help="where runs are kept"
        )(execute)
        for name in reversed(names):
            metavar = f"{name.upper()}..." if settings.get("nargs") == -1 else name.upper()
            execute = click.argument(name, metavar=metavar, **arguments)(execute)
        return execute

    return decorate
