"""Random damage to one file of a run directory."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[random.Random, Path, Path], None]
"""Damages the file at the first path; the second is the directory of another run, of the same files."""


def flip(draw: random.Random, path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(draw: random.Random, path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(max(1, path.stat().st_size))])


def blank(draw: random.Random, path: Path, other: Path) -> None:
    """Put zeros in the place of a block, as a disk does that lost it."""
    data = bytearray(path.read_bytes())
    start = draw.randrange(max(1, len(data)))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)


def swap(draw: random.Random, path: Path, other: Path) -> None:
    second = draw.choice(sorted(path.parent.iterdir()))
    aside = path.with_name("aside")
    path.rename(aside)
    if second != path:
        second.rename(path)
    aside.rename(second)


def delete(draw: random.Random, path: Path, other: Path) -> None:
    path.unlink()


def take_foreign(draw: random.Random, path: Path, other: Path) -> None:
    """Put the file of another run in the place."""
    (run_dir,) = (parent for parent in path.parents if (parent / "config.json").exists())
    source = other / path.relative_to(run_dir)
    path.write_bytes((source if source.exists() else other / "config.json").read_bytes())


def add_stray(draw: random.Random, path: Path, other: Path) -> None:
    """Copy the file beside itself, under a name that the run could have used."""
    stem, _, suffix = path.name.partition(".")
    shutil.copy(path, path.with_name(f"{stem[:-1]}9.{suffix}"))


def change_type(draw: random.Random, path: Path, other: Path) -> None:
    path.write_text(draw.choice(["null", "[]", '"text"', "{}", "1e999", "[" * 50_000, "\x00", "PAR1PAR1"]))


def put_directory(draw: random.Random, path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Damage, ...] = (
    flip,
    flip,
    truncate,
    blank,
    swap,
    delete,
    take_foreign,
    add_stray,
    change_type,
    put_directory,
)


def damage_one(draw: random.Random, run_dir: Path, other: Path) -> tuple[str, set[str]]:
    """Damage a random file of the run; return what was done to which, and the names of all files that changed."""
    before = _contents(run_dir)
    path = run_dir / draw.choice(sorted(before))
    damage = draw.choice(DAMAGES)
    damage(draw, path, other)
    after = _contents(run_dir)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return f"{damage.__name__} {path.relative_to(run_dir)}", changed


def _contents(run_dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
