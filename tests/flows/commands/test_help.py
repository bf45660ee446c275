"""What ``harvest`` and each command say of themselves, and what the shell completes."""

import shlex
from pathlib import Path

import pytest

from flows.commands.cli import COMMANDS, harvest, parse
from flows.parameters import PARAMETERS, SECTIONS
from tests.support.harvest_command import Tell, harvest_here
from tests.support.synthetic import write_run

NAMES = [name for commands in COMMANDS.values() for name in commands]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["", *NAMES])
def test_a_help_fits_the_terminal_and_has_examples_first(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, name: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    told = tell(*filter(None, [name]), "--help")
    assert (told.code, told.stderr) == (0, "")
    assert "\x1b" not in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= columns
    if name:
        assert told.stdout.index("Examples:") < told.stdout.index("--help ")
        assert told.stdout.split("Examples:\n")[1].startswith(f"  harvest {name}")


def test_without_a_command_the_help_is_shown(tell: Tell) -> None:
    told = tell()
    assert (told.code, told.stdout) == (2, "")
    assert told.stderr.rstrip() == tell("--help").stdout.rstrip()


def test_every_parameter_stands_in_a_section_of_the_help(tell: Tell) -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(PARAMETERS)
    help_text = tell("run", "--help").stdout
    places = [help_text.index(f"\n{section}:\n") for section in SECTIONS]
    assert places == sorted(places)
    for section, names in SECTIONS.items():
        block = help_text.split(f"\n{section}:\n")[1].split("\n\n")[0]
        assert not [name for name in names if f"  {PARAMETERS[name].options[0]}" not in block]
    assert "--max-tokens N              longest completion, in tokens  [default: 512]" in help_text
    assert "--prompt-format chat|plain" in help_text


def test_a_help_states_the_bounds_in_words_and_the_defaults_of_the_command_itself(tell: Tell) -> None:
    assert "[default: 20; at least 0]" in tell("show", "--help").stdout
    told = " ".join(tell("bench", "--help").stdout.split())
    assert "number of questions, taken from the start [default: 100]" in told
    assert "[default: 3; 1 to 1,000]" in told


@pytest.mark.parametrize("asked", ["bash_complete", "fish_complete", "tcsh_source", "1"])
def test_what_completes_nothing_is_refused(tell: Tell, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("_HARVEST_COMPLETE", asked)
    monkeypatch.delenv("COMP_WORDS", raising=False)
    told = tell("runs")
    assert (told.code, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert f"_HARVEST_COMPLETE is '{asked}', which completes nothing" in told.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compa"], {"compare"}),
        (["run", "--profile", "cpu"], {"cpu-demo", "cpu-demo-baseline"}),
        (["profiles", "auto"], {"auto"}),
        (["run", "--arms", "ma"], {"math8"}),
        (["run", "--require", "b"], {"bitwise"}),
        (["run", "--max-to"], {"--max-tokens"}),
        (["run", "--baseline", "se"], {"second"}),
        (["show", ""], {"latest", "first", "second"}),
        (["diff", "first", "s"], {"second"}),
        (["export", "first", "--to", "p"], {"prime-rl", "parquet"}),
    ],
)
def test_the_shell_completes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: set[str],
) -> None:
    write_run(tmp_path / "runs" / "first", shards=1)
    write_run(tmp_path / "runs" / "second", shards=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_HARVEST_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["harvest", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert harvest_here() == 0
    assert {line.partition(",")[2] for line in capsys.readouterr().out.split()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_examples_parse(name: str) -> None:
    for example in harvest.commands[name].load().examples:
        words = shlex.split(example.partition(" | ")[0])
        assert words[0] == "harvest"
        assert parse(words[1:]).command.name == name


def test_commands_are_those_of_the_table() -> None:
    assert sorted(harvest.commands) == sorted(NAMES)
    assert all(command.load().name == name for name, command in harvest.commands.items())
