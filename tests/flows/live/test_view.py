"""The panel's lines, from a state, at several widths."""

import dataclasses

import pytest
from rich.cells import cell_len

from flows.live.state import GpuMemory, LiveState, RewardRow
from flows.live.view import panel_lines
from tasks.units import GIB

STATE = LiveState(
    phase="generating",
    phase_seconds=83,
    elapsed=151,
    subject="demo-4f1c2ab9",
    note="Loading weights took 3.2 seconds",
    rollouts=43_210,
    total=100_000,
    eta_seconds=1234,
    shards=120,
    num_shards=300,
    tokens_per_second=21396.4,
    speeds=tuple(float(speed) for speed in range(60)),
    running=1024,
    waiting=12,
    kv_cache=0.8123,
    engines="7/8 engines ready",
    gpus=(GpuMemory(0, 60 * GIB, 141 * GIB), GpuMemory(1, 61 * GIB, None)),
    rewards=(
        RewardRow("verify", 0.812, 0.71, 0.9, 5400),
        RewardRow("an arm with a name as long as a sentence, and longer", 0.25, 0.2, 0.3, 5400),
        RewardRow("日本語の名前", -0.5, None, None, 12),
    ),
    truncated=0.031,
    zero_variance=0.45,
    restarts=2,
    oom="OOM rung 1: 64 questions in flight",
)
TOLD = [
    "generating 1:23", "2:31 in all", "ETA 20:34", "demo-4f1c2ab9", " 43%", "43,210/100,000 rollouts", "120/300 shards",
    "21,396 tokens/s", "▅", "█", "7/8 engines ready", "1,024 sequences running, 12 waiting", "KV cache 81.2%",
    "GPU 0 60.0/141 GiB", "GPU 1 61.0 GiB", "truncated 3.1%", "zero variance 45.0% of groups", "2 restarts",
    "OOM rung 1: 64 questions in flight", "Loading weights took 3.2 seconds", "verify", "0.812  0.710-0.900",
    "n 5,400", "an arm with a name as", "-0.500  -", "●", "───",
]  # fmt: skip


def shown(state: LiveState, width: int, height: int = 40, *, plain: bool = False) -> list[str]:
    return [line.plain for line in panel_lines(state, width=width, height=height, plain=plain)]


@pytest.mark.parametrize("width", [80, 120])
def test_everything_that_is_known_is_shown(width: int) -> None:
    text = "\n".join(shown(STATE, width))
    assert [told for told in TOLD if told not in text] == []


@pytest.mark.parametrize("width", [1, 8, 20, 39, 40, 80, 120, 300])
@pytest.mark.parametrize("plain", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, plain: bool) -> None:
    lines = shown(STATE, width, plain=plain)
    assert max(map(cell_len, lines)) <= width
    assert not any("\n" in line for line in lines)


def test_forty_columns_show_the_same_on_more_lines() -> None:
    text = "\n".join(shown(STATE, 39))
    # no room for these beside what is said more often
    lacking = {"demo-4f1c2ab9", "2:31 in all", "n 5,400", "●", "───"}
    assert [told for told in TOLD if told not in text and told not in lacking] == ["an arm with a name as"]
    assert "an arm with a nam…" in text


@pytest.mark.parametrize("height", [1, 3, 12, 14])
def test_a_low_terminal_shows_the_start_and_how_many_arms_are_left(height: int) -> None:
    arms = tuple(RewardRow(f"arm {number}", 0.5, 0.4, 0.6, 8) for number in range(30))
    lines = shown(dataclasses.replace(STATE, rewards=arms), 80, height)
    assert len(lines) <= height
    assert lines[0].startswith("⠼ generating")
    if height >= 12:
        assert lines[-1] == f"and {30 - sum('arm ' in line for line in lines)} more"


def test_in_ascii_all_is_ascii_but_the_names_of_others() -> None:
    lines = shown(dataclasses.replace(STATE, rewards=STATE.rewards[:2]), 80, plain=True)
    assert "\n".join(lines).isascii()
    assert "#####" in lines[1]


def test_what_is_not_known_yet_is_not_shown() -> None:
    assert shown(LiveState(phase="server", phase_seconds=2, elapsed=2.2), 80) == ["⠇ server 0:02"]


def test_the_first_line_moves() -> None:
    heads = {shown(LiveState(phase="plan", phase_seconds=0, elapsed=half / 2), 80)[0] for half in range(4)}
    assert len(heads) == 4
