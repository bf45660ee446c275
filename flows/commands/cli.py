"""The ``harvest`` command.

A command's module is imported when the command is given, so that ``harvest --help`` answers at once. EXIT_CODES says
with what it exits.
"""

import importlib
import os
import sys
from functools import partial
from importlib import metadata
from typing import Any

import click

from flows.commands.command import Command, exit_code_of
from flows.terminal import prepare_output, print_error, print_line

COMMANDS = {
    "Collect rollouts": {
        "init": ("init", "write a profile, arms, questions and a scorer to begin with"),
        "run": ("run", "generate, score, validate, upload; again: resume"),
        "preflight": ("node", "check this node: GPUs, memory, disk, model files, destination"),
        "plan": ("node", "what a run will take, what fits into memory, what would be faster"),
        "profiles": ("profiles", "list the hardware profiles, show one, or save it as a file"),
        "tune": ("tune", "find a profile's fastest settings on this node, and save them"),
        "bench": ("bench", "measure the pipeline beside what it replaces, and peers"),
    },
    "Read runs": {
        "runs": ("runs", "list runs: state, counts, mean reward, verdict, size"),
        "show": ("show", "print rollouts: prompt, completion, score"),
        "report": ("report", "make the page of a run, or of several runs by step"),
        "view": ("view", "show runs in the browser: list, filter, compare two, follow one"),
        "arms": ("arms", "rank the arms, and say which differences are real"),
        "diff": ("diff", "which rollouts are right in one run and wrong in another"),
        "rm": ("rm", "remove runs"),
    },
    "Check and use them": {
        "compare": ("compare", "are the outputs of two runs the same, and in which sense"),
        "mismatch": ("mismatch", "recompute stored logprobs as a trainer does: KL, ratios"),
        "score": ("score", "score again with another scorer, and keep the run's own scores"),
        "export": ("export", "write training data in the columns of a trainer"),
        "upload": ("transfer", "upload a finished run, or complete an interrupted upload"),
        "download": ("transfer", "download an uploaded run, and verify it"),
        "verify": ("transfer", "hash the files of a run again, and list the damaged ones"),
        "push": ("transfer", "push a run to a dataset repository on the Hugging Face hub"),
    },
    "Run as a service": {
        "serve": ("deployments", "serve one deployment from this process: no work pool, no worker"),
        "deploy": ("deployments", "make the work pool and the deployments on a Prefect server"),
        "worker": ("deployments", "run deployed collections on this node, one at a time"),
        "automations": ("deployments", "act on flow runs that fail, or make no progress"),
    },
}
"""Section of the help, name, module and line of every command."""

EXIT_CODES = (
    "exit codes: 0 done; 1 the run failed; 2 refused before anything was loaded: bad input, a failed preflight, or a "
    "run in use; 3 not equivalent to the baseline; 130 interrupted"
)
_NAME_WIDTH = 25
"""Of the longest variable in what --version -v shows."""
_COMPLETE = "_HARVEST_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")
_COMPLETION = f'completion: eval "$({_COMPLETE}=bash_source harvest)" in ~/.bashrc; zsh_source and fish_source too'


class _Lazy(click.Command):
    """A command by name, whose module is imported when it is given."""

    def __init__(self, name: str, module: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._module = module

    def load(self) -> Command:
        command: Command = getattr(importlib.import_module(f"flows.commands.{self._module}"), str(self.name))
        return command

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        return self.load().make_context(*arguments, **settings)


class _Harvest(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<{width}}", text) for name, (_, text) in commands.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for text in ("harvest COMMAND --help says the rest", EXIT_CODES, _COMPLETION):
            formatter.write_paragraph()
            formatter.write_text(text)


harvest = _Harvest(
    "harvest",
    commands=[_Lazy(name, *told) for commands in COMMANDS.values() for name, told in commands.items()],
    help="Fast, safe, checked rollout collection on vLLM under Prefect.",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
        "show_default": True,
        # --max_tokens is --max-tokens
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    verbose = ctx.params.pop("verbose")
    if not value:
        if verbose:
            raise click.UsageError("-v belongs to --version. Give both, or leave -v out", ctx)
        return
    print_line(f"rollout-harvest {metadata.version('rollout-harvest')}")
    if verbose:
        from tasks.node.installation import installation

        for section, texts in installation().items():
            print_line(f"{section}:")
            for name, text in texts.items() or [("none", "")]:
                print_line(f"  {name:<{_NAME_WIDTH}}  {text}")
    ctx.exit()


harvest.params += [
    click.Option(["--version"], is_flag=True, expose_value=False, callback=_show_version, help="show the version"),
    click.Option(["-v", "--verbose"], is_flag=True, is_eager=True, help="with --version: packages, places, settings"),
]


def parse(arguments: list[str]) -> click.Context:
    """Return the context of the command that the ``arguments`` give, which is not executed. Raises click.UsageError."""
    context = harvest.make_context("harvest", [*arguments], obj=arguments)
    name, command, rest = harvest.resolve_command(context, arguments)
    assert command is not None
    return command.make_context(name, rest, parent=context)


def _check_completion() -> None:
    """Exit with one line when a variable asks for a completion that is none, where click would fail or say nothing."""
    if not (asked := os.environ.get(_COMPLETE)):
        return
    shell, _, what = asked.partition("_")
    from_shell = {"COMP_WORDS", "COMP_CWORD"} <= os.environ.keys()
    if shell not in _SHELLS or not (what == "source" or (what == "complete" and from_shell)):
        print_error(
            f"harvest: error: {_COMPLETE} is {asked!r}, which completes nothing: the shell's own function sets it with "
            f"COMP_WORDS and COMP_CWORD. Unset it. {_COMPLETION[0].upper()}{_COMPLETION[1:]}"
        )
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    prepare_output()
    _check_completion()
    sys.exit(exit_code_of(partial(harvest.main, arguments, "harvest", standalone_mode=False, obj=arguments)))


if __name__ == "__main__":
    main()
