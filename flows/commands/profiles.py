"""``harvest profiles``: list the profiles, show one with every setting, or save it as a TOML file."""

import os
import shlex
import sys
from pathlib import Path

import click

from flows.commands.command import command, flag
from flows.commands.common_options import UserPath
from flows.commands.parameter_options import Value
from flows.parameters import PARAMETERS
from flows.terminal import print_json, print_line, print_text

_NAME = Value(PARAMETERS["profile"])
_AUTO = "chosen for this node's GPUs and the model; cpu-demo on a node without GPUs"


@command(examples=("harvest profiles", "harvest profiles auto --model demo --save mine.toml"))
@click.argument("name", required=False, type=_NAME, help="a shipped profile, a TOML file, or auto")
@click.option("--model", metavar="M", help="with auto: the model that it is chosen for")
@click.option("--save", type=UserPath(), metavar="FILE", help="save it as FILE.toml, to run or to change")
@flag("--force", "with --save: replace a file that is there")
@flag("--json", "print as JSON")
def profiles(name: str | None, model: str | None, save: Path | None, force: bool, json: bool) -> int:
    """List the hardware profiles, show one with every setting, or save it as a file."""
    from profiles.load import load_profile, profile_names
    from profiles.profile_text import profile_text
    from profiles.schema import AUTO
    from tasks.errors import ConfigError
    from tasks.node.plan_here import profile_here

    if name is None:
        if save is not None or model is not None:
            raise ConfigError("--save and --model are for one profile. Name it: harvest profiles NAME --save FILE.toml")
        shipped = [load_profile(name) for name in profile_names()]
        if json:
            print_json([profile.model_dump(mode="json") for profile in shipped])
            return 0
        lines = [(AUTO, _AUTO), *((profile.name, profile.description) for profile in shipped)]
        width = max(len(title) for title, _ in lines)
        for title, description in lines:
            print_line(f"{title:<{width}}  {description}")
        return 0
    if model is not None and name != AUTO:
        raise ConfigError(f"--model is for auto; profile {name!r} is the same for every model. Leave it out")
    if save is not None:
        check_profile_file(save, force=force)
    chosen = profile_here(name, model)
    if save is not None:
        save_profile(save, profile_text(chosen.profile, chosen.notes))
    if json or (name != AUTO and save is None):
        print_json(chosen.profile.model_dump(mode="json"))
    elif save is None:
        print_text(profile_text(chosen.profile, chosen.notes).rstrip("\n"))
    return 0


def check_profile_file(path: Path, *, force: bool) -> None:
    """Raise ConfigError unless a profile can be saved as ``path``; one that is there is replaced only by ``force``."""
    from tasks.errors import ConfigError
    from tasks.user_paths import check_directory

    if path.suffix != ".toml":
        raise ConfigError(f"--save is {str(path)!r}; a profile is known by its ending. Give a name that ends in .toml")
    if os.path.lexists(path):
        if not path.is_file():
            raise ConfigError(f"--save is {str(path)!r}, which is there and is no file. Give another name")
        if not force:
            raise ConfigError(f"{path} is there already. Give another name, or --force to replace the file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}, the directory of --save, does not exist. Make it, or give another path")
    check_directory(path.parent, "the directory of --save")


def save_profile(path: Path, text: str) -> None:
    """Save ``text`` as ``path`` in one step, and say so."""
    from tasks.files import publish_text

    publish_text(text, path)
    print_line(f"saved as {path}; --profile {shlex.quote(str(path))} uses it", sys.stderr)
