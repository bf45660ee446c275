"""``harvest init``: write the files of one's own run, to begin with."""

import os
import shlex
from pathlib import Path

import click

from flows.commands.command import command
from flows.commands.common_options import UserPath
from flows.terminal import print_line, print_text

_PROFILE = "profile.toml"
_FILES = {
    _PROFILE: "how the engine uses this machine: every setting, with its meaning",
    "arms.toml": "the system prompts under which each question is asked",
    "questions.jsonl": "the questions and their ground truths",
    "scorer.py": "how an answer becomes a reward",
    "test_scorer.py": "the scorer's test, for pytest",
}


@command(examples=("harvest init my-project", "harvest init"))
@click.argument("directory", metavar="[DIR]", required=False, default=".", type=UserPath(), help="made if need be")
def init(directory: Path) -> int:
    """Write a profile for this machine with every setting explained, arms, a few questions, and a scorer with its test.
    They work as they are, with the demo model; change them step by step. Nothing that is there is overwritten.
    """
    from profiles.load import STARTER_DIR
    from tasks.errors import ConfigError
    from tasks.user_paths import check_directory

    if there := [name for name in _FILES if os.path.lexists(directory / name)]:
        raise ConfigError(
            f"{directory} has {', '.join(there)} already, and nothing is overwritten. Use them, or give another "
            "directory"
        )
    check_directory(directory, "the directory")
    texts = {name: (STARTER_DIR / name).read_text(encoding="utf-8") for name in _FILES if name != _PROFILE}
    _publish(directory, {_PROFILE: _profile()} | texts)
    _tell(directory)
    return 0


def _profile() -> str:
    from profiles.profile_draft import profile_draft
    from tasks.node.plan_here import profile_here

    chosen = profile_here("auto", "demo")
    mine = chosen.profile.model_copy(update={"name": "mine", "model": "demo"})
    other = "For another model, harvest profiles auto --model MODEL --save FILE.toml drafts one without comments."
    return profile_draft(mine, ("A profile: one hardware target, and how to use it.", *chosen.notes, other))


def _publish(directory: Path, texts: dict[str, str]) -> None:
    """Write all files, or none if one of them fails."""
    from tasks.errors import StorageError
    from tasks.files import publish_text

    written: list[Path] = []
    try:
        for name, text in texts.items():
            publish_text(text, directory / name)
            written.append(directory / name)
    except StorageError:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _tell(directory: Path) -> None:
    # a path that begins with a dash would be taken for an option
    prefix = "./" if str(directory)[0] == "-" else ""
    at = {name: shlex.quote(f"{prefix}{directory / name}") for name in _FILES}
    scorer = shlex.quote(f"{prefix}{directory / 'scorer.py'}:exact")
    print_line(f"wrote into {directory}:")
    for name, text in _FILES.items():
        print_line(f"  {name:<15}  {text}")
    print_text(
        "\nIt works as it is. Ask the questions, and make the page of the run:\n"
        f"  harvest run --profile {at[_PROFILE]} --arms {at['arms.toml']} --dataset {at['questions.jsonl']} "
        f"--scorer {scorer}\n"
        "  harvest report latest\n"
        "\nThen make the files yours. What the scorer gives for ground truths and other texts:\n"
        f"  harvest score --dry-run {scorer}"
    )
