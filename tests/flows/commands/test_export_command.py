"""``harvest export`` as a user runs it."""

from pathlib import Path

import polars as pl

from flows.commands.export import TARGETS
from tasks.export.formats import FORMATS
from tests.support.harvest_command import Tell
from tests.support.synthetic import write_run


def test_the_command_knows_every_target() -> None:
    assert (*FORMATS,) == TARGETS


def test_advantages_are_optional_and_need_groups(tmp_path: Path, tell: Tell) -> None:
    runs_dir = tmp_path / "runs"
    write_run(runs_dir / "groups", shards=1, arms=2, samples=4)
    write_run(runs_dir / "singles", shards=1, arms=2)
    command = ("export", "--runs-dir", runs_dir, "--to", "parquet", "--json")

    plain = tell(*command, "groups", "--out", tmp_path / "plain", "--drop-gold-suspects")
    assert (plain.code, "advantage" in plain.report["columns"]) == (0, False), plain.stderr
    assert plain.report["filters"]["drop_gold_suspects"] is True

    asked = tell(*command, "groups", "--out", tmp_path / "asked", "--advantages")
    assert asked.report["columns"] == [*plain.report["columns"], "advantage"], asked.stderr
    frame = pl.read_parquet(tmp_path / "asked" / "*.parquet")
    assert frame.group_by("group_id").agg(pl.col("advantage").sum().abs())["advantage"].max() < 1e-9  # type: ignore[operator]

    lacking = tell(*command, "groups", "--out", tmp_path / "refused", "--balance")
    assert (lacking.code, "--balance is given" in lacking.stderr) == (2, True), lacking.stderr
    assert lacking.stderr.endswith("Give --group-size\n")

    refused = tell(*command, "singles", "--out", tmp_path / "refused", "--advantages")
    assert (refused.code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "--samples-per-arm 2 or more" in refused.stderr
    assert not (tmp_path / "refused").exists()
