"""Finds rollouts of a run, finished or not, and shows them on a terminal. One shard is in memory at a time."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from profiles.nearest import did_you_mean
from tasks.errors import ConfigError
from tasks.locks import what_finishes
from tasks.plain_text import one_line, plain_number, visible
from tasks.records import OWN_SCORES, SCORE_SCHEMA, RunPaths
from tasks.results.run_state import RunState
from tasks.scoring.score import RIGHT_AT, is_right
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_shards, missing_files, scan_shards
from tasks.storage.score_sets import right_at

logger = logging.getLogger(__name__)

_ROLLOUT_COLUMNS = (
    "rollout_id",
    "example_id",
    "arm_id",
    "sample_index",
    "prompt",
    "completion",
    "finish_reason",
    "stop_reason",
    "is_truncated",
    "error",
    "num_prompt_tokens",
    "num_completion_tokens",
    "ground_truth",
    "oom_rung",
)
Outcome = Literal["right", "wrong", "error"]


@dataclass(frozen=True, kw_only=True)
class RolloutFilter:
    """Says which rollouts to show. None and False select all."""

    arm: str | None = None
    example: str | None = None
    outcome: Outcome | None = None
    truncated: bool = False

    def condition(self, right_at: float = RIGHT_AT) -> pl.Expr:
        """Expression over the columns of a rollout and its score: true for the rows that pass."""
        wanted = pl.lit(True)
        if self.arm is not None:
            wanted &= pl.col("arm_id") == self.arm
        if self.example is not None:
            wanted &= pl.col("example_id") == self.example
        if self.truncated:
            wanted &= pl.col("is_truncated")
        match self.outcome:
            case "right":
                wanted &= is_right("reward", right_at)
            case "wrong":
                wanted &= ~is_right("reward", right_at)
            case "error":
                wanted &= pl.col("error").is_not_null()
        return wanted


def find_rollouts(run_dir: Path, wanted: RolloutFilter, scores: str = OWN_SCORES) -> Iterator[dict[str, Any]]:
    """Yield the rollouts that pass, in order, with the columns of their scores, which are None before scoring.

    ``scores`` is the folder of the scores. ``is_right`` is added to the columns.

    Raises ConfigError when the run has no rollouts, or not the arm or the example asked for.
    """
    check_names(run_dir, wanted)
    for shard in known_shards(run_dir, "rollouts"):
        rows = _wanted(run_dir, shard, wanted, scores).collect()
        yield from rows.iter_rows(named=True)


def count_rollouts(run_dir: Path, wanted: RolloutFilter, scores: str = OWN_SCORES) -> int:
    """Return the number of rollouts that pass."""
    # one after the other: Polars starts a thread for each file of a collection, and warns of a deadlock at 512
    counts = (
        _wanted(run_dir, shard, wanted, scores).select(pl.len()).collect().item()
        for shard in known_shards(run_dir, "rollouts")
    )
    return sum(map(int, counts))


def check_names(run_dir: Path, wanted: RolloutFilter) -> None:
    """Raise ConfigError when the run has no rollouts, or not the arm or the example asked for."""
    if not known_shards(run_dir, "rollouts"):
        raise ConfigError(f"{run_dir} has no rollouts yet. {what_finishes(run_dir)}")
    if missing := [name for name in missing_files(run_dir) if name.startswith(("rollouts", "scores"))]:
        logger.warning("%s is not finished: it lacks %s (%d in all)", run_dir, missing[0], len(missing))
    rollouts = scan_shards(run_dir, "rollouts")
    if wanted.arm is not None:
        arms = rollouts.select(pl.col("arm_id").unique().sort()).collect()["arm_id"].to_list()
        if wanted.arm not in arms:
            raise ConfigError(
                f"the run has no arm {wanted.arm!r}; it has {', '.join(arms)}.{did_you_mean(wanted.arm, arms)}"
            )
    if wanted.example is not None:
        match = rollouts.filter(pl.col("example_id") == wanted.example).select(pl.len()).collect().item()
        if not match:
            some = rollouts.select("example_id").head(1).collect().item()
            raise ConfigError(f"the run has no example {wanted.example!r}; its ids look like {some!r}")


def _wanted(run_dir: Path, shard: int, wanted: RolloutFilter, scores: str) -> pl.LazyFrame:
    right = right_at(run_dir, scores)
    rows = scan_with_scores(RunPaths(root=run_dir, scores_folder=scores), shard).filter(wanted.condition(right))
    return rows.with_columns(is_right=is_right("reward", right))


def scan_with_scores(paths: RunPaths, shard: int) -> pl.LazyFrame:
    """Return the lazy rollouts of a shard with the columns of their scores, which are null before scoring."""
    rollouts = scan_shard(paths.rollouts(shard)).select(_ROLLOUT_COLUMNS)
    if paths.scores(shard).exists():
        return rollouts.join(scan_shard(paths.scores(shard)), on="rollout_id", how="left", maintain_order="left")
    unscored = {name: pl.lit(None, kind) for name, kind in SCORE_SCHEMA.items() if name != "rollout_id"}
    return rollouts.with_columns(**unscored)


def render_rollouts(
    rollouts: Iterable[dict[str, Any]], *, shown: int, found: int, state: RunState | None = None
) -> RenderableType:
    """Return a view of ``rollouts``, from ``find_rollouts``: ``shown`` of ``found`` rollouts.

    It says in which ``state`` the run is, unless that is complete.
    """
    parts = [part for rollout in rollouts for part in _rollout(rollout)]
    note = f"{found:,} rollouts" if shown == found else f"{shown:,} of {found:,} rollouts; --limit shows more"
    if state is not None and not state.is_complete:
        parts.append(Text(f"the run is {one_line(str(state), 400)}", style="yellow"))
    return Group(*parts, Text(note, style="bold"))


def outcome(rollout: dict[str, Any]) -> tuple[str, str]:
    """Return the outcome of a rollout in a word, and the colour of the word."""
    if rollout["error"] is not None:
        return "error", "red"
    if rollout["reward"] is None:
        return "not scored", "yellow"
    return ("right", "green") if rollout["is_right"] else ("wrong", "red")


def _rollout(rollout: dict[str, Any]) -> Iterator[RenderableType]:
    word, colour = outcome(rollout)
    name = f"{rollout['example_id']} · {rollout['arm_id']} · sample {rollout['sample_index']}"
    yield Rule(Text.assemble((one_line(name, 120), "bold"), "  ", (word, f"bold {colour}")), align="left")
    for message in rollout["prompt"] or ():
        yield Text.assemble(
            (f"{one_line(message['role'] or '', 40)}: ", "cyan"), (visible(message["content"] or ""), "dim")
        )
    if rollout["error"] is not None:
        yield Text.assemble(("error: ", "cyan"), visible(rollout["error"]))
    else:
        yield Text.assemble(("completion: ", "cyan"), visible(rollout["completion"] or ""))
    yield Text.assemble(("score: ", "cyan"), one_line(_score(rollout), 400))
    yield Text("")


def _score(rollout: dict[str, Any]) -> str:
    tokens = f"{rollout['num_completion_tokens']} tokens"
    ended = "cut off by max_tokens" if rollout["is_truncated"] else f"ended by {rollout['finish_reason']}"
    if rollout["error"] is not None:
        return "none"
    if rollout["reward"] is None:
        method = rollout["extraction_method"]
        reason = "yet" if method is None else f"({method})"
        return f"none {reason}; ground truth {rollout['ground_truth']!r}; {tokens}, {ended}"
    known = {*_ROLLOUT_COLUMNS, *SCORE_SCHEMA, "is_right"}
    more = ((name, plain_number(value)) for name, value in rollout.items() if name not in known and value is not None)
    added = "".join(f"{name} {value!r}; " for name, value in more)
    return (
        f"reward {rollout['reward']:g}; {added}read {rollout['extracted_answer']!r} ({rollout['extraction_method']}), "
        f"ground truth {rollout['ground_truth']!r}; {tokens}, {ended}"
    )
