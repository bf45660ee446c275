"""What all commands of ``harvest`` share: how their help looks, what is checked before they start, their exit code."""

import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from flows.commands.abort_guard import READERS, run_guarded
from flows.server.interruption import CUT_SHORT, INTERRUPTED, RESUMES
from flows.terminal import print_error
from tasks.last_read import last_read

_FEW_OPTIONS = 15
"""So many are not told apart in sections."""
_SECTION = {"--json": "Output", "--verbose": "Output", "--help": "More"}
"""Of the options that are no parameters, in a long help."""
_COLUMN = 26
"""Characters of an option's names in a long help; a longer one stands on a line of its own."""
_OF_A_FILE = re.compile(r"(?:profile|arms file) [^:]*\.toml\b")
_QUOTED = r"(?<!\w)(?:'[^']*'|\"[^\"]*\")(?!\w)"


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """A command whose function returns the exit code. Its help has examples first, and options in sections.

    ``resumes``: given again after an interruption, it goes on from there.
    """

    def __init__(self, *arguments: Any, examples: tuple[str, ...] = (), resumes: bool = False, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = examples
        self._last_words = RESUMES if resumes else CUT_SHORT

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self._check_values(ctx, args)
        return super().parse_args(ctx, args)

    def _check_values(self, ctx: click.Context, words: list[str]) -> None:
        """Refuse an option of the command in place of another's value, which click would take."""
        takes_value = {
            name: isinstance(option, click.Option) and not (option.is_flag or option.count)
            for option in self.get_params(ctx)
            for name in option.opts
        }
        rest = iter(words)
        for word in rest:
            if word == "--":
                return
            if not takes_value.get(word.replace("_", "-")):
                continue
            value = next(rest, "").partition("=")[0]
            if value.startswith("--") and value.replace("_", "-") in takes_value:
                raise click.UsageError(
                    f"Option '{word}' has no value before {value}. Give one; if it is {value}: {word}={value}", ctx
                )

    def invoke(self, ctx: click.Context) -> int:
        execute = partial(exit_code_of, partial(self._execute, ctx), self._last_words)
        # a caller in a process with threads gives its arguments, which are then the context's object
        return run_guarded(execute) if ctx.obj is None and self.name in READERS else execute()

    def _execute(self, ctx: click.Context) -> int:
        from tasks.process_limits import check_address_space
        from tasks.time_limits import time_limit_factor

        # what is wrong around the command is refused before anything starts
        check_address_space()
        _check_text(ctx.params)
        time_limit_factor()
        return int(super().invoke(ctx))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(" ".join((self.help or "").split()))
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        many = len(options) > _FEW_OPTIONS
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in options:
            section = getattr(option, "section", _SECTION.get(option.opts[-1], "Options")) if many else "Options"
            names, text = option.get_help_record(ctx) or ("", "")
            sections.setdefault(section, []).append((f"{names:<{_COLUMN * many}}", text))
        for title in sorted(sections, key="More".__eq__):
            with formatter.section(title):
                formatter.write_dl(sections[title], col_max=_COLUMN)


command = partial(click.command, cls=Command)
"""The decorator of a command's function."""


class Whole(click.IntRange):
    """A whole number, whose bounds are told in words."""

    def _describe_range(self) -> str:
        return f"at least {self.min}" if self.max is None else f"{self.min} to {self.max:,}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = click.INT.convert(value, param, ctx)
        if (self.min is not None and number < self.min) or (self.max is not None and number > self.max):
            self.fail(f"{number} is not {self._describe_range()}.", param, ctx)
        return number


def flag(name: str, text: str) -> Decorator:
    """Return the decorator that adds an option without a value."""
    return click.option(name, is_flag=True, help=text)


def exit_code_of(action: Callable[[], int], last_words: str = CUT_SHORT) -> int:
    """Return the exit code that ``action`` returns, or print its failure as one line and return the code of that.

    ``last_words`` are what is printed after Ctrl-C.
    """
    from tasks.errors import HarvestError

    try:
        return action()
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        else:
            see = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            message = error.format_message().rstrip(".")
            print_error(f"harvest: error: {message[:1].lower()}{message[1:]}{see}")
        return error.exit_code
    except HarvestError as error:
        print_error(f"harvest: error: {_with_flags(str(error))}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print_error(last_words)
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


def given_flag(option: click.Parameter, ctx: click.Context | None) -> str | None:
    """Return how the command line that ``ctx`` is of spells ``option``; None if it does not give it."""
    words = sys.argv[1:] if ctx is None or ctx.obj is None else ctx.obj
    flags = [str(word).partition("=")[0] for word in words]
    return next((flag for flag in flags if flag.replace("_", "-") in option.opts), None)


def _with_flags(message: str) -> str:
    """Return ``message`` with each parameter of the command called by its flag, as in "--max-tokens is 0"."""
    ctx = click.get_current_context(silent=True)
    if ctx is None or _OF_A_FILE.match(message):
        return message
    for option in (each for each in ctx.command.params if isinstance(each, click.Option)):
        is_word = "_" not in str(option.name)
        flag = given_flag(option, ctx) or (None if is_word else option.opts[0])
        if flag is None:
            continue
        spelled = (getattr(option, "path", option.name), option.name, option.opts[0].removeprefix("--"))
        # which of several values it is stands in the message
        names = f"(?:{'|'.join(map(re.escape, spelled))})" + r"(?:\.\d+)?" * option.multiple
        # a name of one word is a word of English too, except before what is said of it
        where = r"(?:^|(?<=: )){}(?= (?:is|has|are) | '|: )" if is_word else r"(?<![\w./:-]){}(?![\w=/-]| =|\.\w)"
        # what is quoted is the user's own text, such as the name of a column
        either = f"{_QUOTED}|({where.replace('{}', names)})"
        message = re.sub(either, partial(_flag_or_quoted, flag), message)
    # which group of settings a flag belongs to is not the user's business
    return re.sub(r"^\w+: (?=--)", "", message)


def _flag_or_quoted(flag: str, found: re.Match[str]) -> str:
    return found[0] if found[1] is None else flag


def _check_text(given: dict[str, Any]) -> None:
    """Raise ConfigError when an argument is not UTF-8, as the records of a run are."""
    from tasks.errors import ConfigError

    for value in given.values():
        for text in value if isinstance(value, list | tuple) else [value]:
            try:
                str(text).encode()
            except UnicodeEncodeError:
                raise ConfigError(f"the argument {str(text)!a} is not UTF-8. Use another name") from None


def _is_of_data(error: BaseException) -> bool:
    """Return whether a library for Parquet files raised the error, so that a file of a run caused it."""
    polars, pyarrow = sys.modules.get("polars"), sys.modules.get("pyarrow")
    # Polars' PanicException is no Exception
    kinds = (polars.exceptions.PolarsError, polars.exceptions.PanicException) if polars else ()
    return isinstance(error, (*kinds, pyarrow.ArrowException) if pyarrow else kinds)
