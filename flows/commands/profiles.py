"""``harvest profiles``: list the shipped profiles, or show one with every setting."""

import argparse
from typing import Any

from flows.terminal import print_json, print_line


def add(commands: Any) -> None:
    parser = commands.add_parser("profiles", help="list the hardware profiles, or show one")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a shipped profile or a TOML file")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from profiles.load import SettingsError, load_profile, profile_names
    from tasks.errors import ConfigError

    try:
        chosen = [load_profile(name) for name in ([options.name] if options.name else profile_names())]
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    if options.json or options.name:
        values = [profile.model_dump(mode="json") for profile in chosen]
        print_json(values[0] if options.name else values)
        return 0
    width = max(len(profile.name) for profile in chosen)
    for profile in chosen:
        print_line(f"{profile.name:<{width}}  {profile.description}")
    return 0
