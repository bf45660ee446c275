"""Rollouts on a terminal: prompt, completion and score."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from tasks.plain_text import one_line, visible
from tasks.scoring.score import CORRECT_ABOVE


def render_rollouts(rollouts: Iterable[dict[str, Any]], *, shown: int, found: int) -> RenderableType:
    """The rollouts that ``find_rollouts`` returned: ``shown`` of the ``found`` ones."""
    parts = [part for rollout in rollouts for part in _rollout(rollout)]
    note = f"{found:,} rollouts" if shown == found else f"{shown:,} of {found:,} rollouts; --limit shows more"
    return Group(*parts, Text(note, style="bold"))


def outcome(rollout: dict[str, Any]) -> tuple[str, str]:
    """The outcome of a rollout in a word, and its colour."""
    if rollout["error"] is not None:
        return "error", "red"
    if rollout["reward"] is None:
        return "not scored", "yellow"
    return ("right", "green") if rollout["reward"] > CORRECT_ABOVE else ("wrong", "red")


def _rollout(rollout: dict[str, Any]) -> Iterator[RenderableType]:
    word, colour = outcome(rollout)
    name = f"{rollout['example_id']} · {rollout['arm_id']} · sample {rollout['sample_index']}"
    yield Rule(Text.assemble((one_line(name, 120), "bold"), "  ", (word, f"bold {colour}")), align="left")
    for message in rollout["prompt"] or ():
        yield Text.assemble((f"{message['role']}: ", "cyan"), (visible(message["content"] or ""), "dim"))
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
        return f"none yet; ground truth {rollout['ground_truth']!r}; {tokens}, {ended}"
    return (
        f"reward {rollout['reward']:g}; read {rollout['extracted_answer']!r} ({rollout['extraction_method']}), "
        f"ground truth {rollout['ground_truth']!r}; {tokens}, {ended}"
    )
