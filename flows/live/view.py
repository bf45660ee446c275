"""The panel of a run that works: a state to lines of text, for a terminal of any width."""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from flows.live.state import LiveState, RewardRow
from tasks.plain_text import clock, one_line
from tasks.units import GIB

_WIDEST = 96
"""Cells of the longest line: a wider terminal would only tear apart what belongs together."""
_BAR = 72
_PLOT = 24
_PLOT_FROM = 72
"""Cells of a terminal from which on the intervals are drawn as well."""
_LONGEST_NAME = 40
_HISTORY = 24
_FEW_GPUS = 4
_SPINNER, _PLAIN_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
_SPARKS, _PLAIN_SPARKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"


def panel_lines(state: LiveState, *, width: int, height: int, plain: bool = False) -> list[Text]:
    """Return the panel as lines of at most ``width`` cells, ``height`` of them at most. ``plain``: in ASCII alone."""
    width = min(width, _WIDEST)
    lines = [_head(state, width, plain)]
    if state.total:
        lines.append(_bar(state, width, plain))
    for facts in (_done(state, width, plain), _engines(state), _outcome(state)):
        lines += _flow(facts, width, plain)
    if state.note:
        lines.append(Text(one_line(state.note, 400), style="dim"))
    lines += _table(state.rewards, width, height - len(lines), plain)
    for line in lines:
        line.no_wrap = True
        # rich's own ellipsis is no ASCII
        line.truncate(width, overflow="crop" if plain else "ellipsis")
    return lines[: max(1, height)]


def _head(state: LiveState, width: int, plain: bool) -> Text:
    spinner = _PLAIN_SPINNER if plain else _SPINNER
    head = Text.assemble(
        (spinner[int(state.elapsed * 4) % len(spinner)], "cyan"), " ", (state.phase, "bold"), " "
    ).append(clock(state.phase_seconds))
    eta = "" if state.eta_seconds is None else f"{_separator(plain)}ETA {clock(state.eta_seconds)}"
    whole = f"{_separator(plain)}{clock(state.elapsed)} in all"
    # the first phase is the whole
    if state.elapsed >= state.phase_seconds + 1 and head.cell_len + len(whole + eta) <= width:
        head.append(whole, style="dim")
    head.append(eta)
    if state.subject and (room := width - head.cell_len - cell_len(state.subject)) > 1:
        head.append(" " * room).append(state.subject, style="dim")
    return head


def _bar(state: LiveState, width: int, plain: bool) -> Text:
    share = min(1.0, state.rollouts / state.total)
    # 100% is only said of what is finished
    percent = f" {int(100 * share):3d}%"
    cells = max(1, min(_BAR, width - len(percent)))
    done = int(cells * share)
    full, rest = ("#", ".") if plain else ("━", "─")
    return Text.assemble((full * done, "green"), (rest * (cells - done), "dim"), percent)


def _done(state: LiveState, width: int, plain: bool) -> Iterator[Text]:
    if state.total:
        yield Text(f"{state.rollouts:,}/{state.total:,} rollouts")
        yield Text(f"{state.shards:,}/{state.num_shards:,} shards")
    if state.tokens_per_second is not None:
        speed = Text(f"{state.tokens_per_second:,.0f} tokens/s ")
        room = max(1, min(_HISTORY, width - speed.cell_len))
        yield speed.append(_sparkline(state.speeds[-room:], plain), style="cyan")


def _engines(state: LiveState) -> Iterator[Text]:
    if state.engines:
        yield Text(state.engines)
    if state.running is not None:
        waiting = f", {state.waiting:,} waiting" if state.waiting else ""
        yield Text(f"{state.running:,} sequences running{waiting}")
    if state.kv_cache is not None:
        yield Text(f"KV cache {_percent(state.kv_cache)}")
    yield from map(Text, _gpus(state))


def _outcome(state: LiveState) -> Iterator[Text]:
    if state.truncated is not None:
        yield Text(f"truncated {_percent(state.truncated)}")
    if state.zero_variance is not None:
        yield Text(f"zero variance {_percent(state.zero_variance)} of groups")
    if state.restarts:
        yield Text(f"{state.restarts:,} restart{'s' * (state.restarts > 1)}", style="yellow")
    if state.oom:
        yield Text(state.oom, style="yellow")


def _gpus(state: LiveState) -> Iterator[str]:
    if len(state.gpus) > _FEW_GPUS:
        used = [gpu.used / GIB for gpu in state.gpus]
        yield f"{len(used)} GPUs {min(used):.1f}-{max(used):.1f} GiB each"
        return
    for gpu in state.gpus:
        total = "" if gpu.total is None else f"/{gpu.total / GIB:.0f}"
        yield f"GPU {gpu.index} {gpu.used / GIB:.1f}{total} GiB"


def _flow(facts: Iterable[Text], width: int, plain: bool) -> list[Text]:
    """Fill lines with the facts, none of which is cut while it fits a line of its own."""
    lines: list[Text] = []
    for fact in facts:
        if lines and lines[-1].cell_len + 3 + fact.cell_len <= width:
            lines[-1].append(_separator(plain), style="dim").append_text(fact)
        else:
            # a text of its own, so that the style of the first fact is not that of the line
            lines.append(Text().append_text(fact))
    return lines


def _table(rows: Sequence[RewardRow], width: int, height: int, plain: bool) -> Iterator[Text]:
    """Yield a line per row, the highest rewards first, and what does not fit into ``height`` lines as a number."""
    shown = rows if len(rows) <= height else rows[: max(0, height - 1)]
    if not shown:
        return
    intervals = [_interval(row) for row in shown]
    counts = [f"n {row.rollouts:,}" for row in shown]
    means = [f"{row.mean:.3f}" for row in shown]
    columns = [max(map(len, texts)) for texts in (means, intervals, counts)]
    plot = _PLOT if width >= _PLOT_FROM else 0
    has_counts = width >= _PLOT_FROM - _PLOT
    taken = columns[0] + columns[1] + 4 + (columns[2] + 2) * has_counts + (plot + 2) * bool(plot)
    name = min(max(cell_len(row.name) for row in shown), _LONGEST_NAME, max(8, width - taken))
    low = min(0.0, *(row.mean if row.low is None else row.low for row in shown))
    high = max(1.0, *(row.mean if row.high is None else row.high for row in shown))
    for row, mean, interval, count in zip(shown, means, intervals, counts, strict=True):
        line = Text(row.name)
        line.truncate(name, overflow="crop" if plain else "ellipsis", pad=True)
        line.append("  ").append(mean.rjust(columns[0]), style="bold").append("  " + interval.ljust(columns[1]))
        if plot:
            line.append("  ").append_text(_plot(row, low, high, plain))
        if has_counts:
            line.append("  " + count.rjust(columns[2]), style="dim")
        yield line
    if left := len(rows) - len(shown):
        yield Text(f"and {left:,} more", style="dim")


def _plot(row: RewardRow, low: float, high: float, plain: bool) -> Text:
    def cell(value: float) -> int:
        return min(_PLOT - 1, max(0, round((value - low) / (high - low) * (_PLOT - 1))))

    drawn = [" "] * _PLOT
    if row.low is not None and row.high is not None:
        first, last = cell(row.low), cell(row.high)
        drawn[first : last + 1] = ("-" if plain else "─") * (last + 1 - first)
    drawn[cell(row.mean)] = "o" if plain else "●"
    return Text("".join(drawn), style="cyan")


def _interval(row: RewardRow) -> str:
    return "-" if row.low is None or row.high is None else f"{row.low:.3f}-{row.high:.3f}"


def _sparkline(speeds: Sequence[float], plain: bool) -> str:
    levels = _PLAIN_SPARKS if plain else _SPARKS
    top = max(speeds, default=0.0)
    return "".join(levels[round(speed / top * (len(levels) - 1))] if top else levels[0] for speed in speeds)


def _separator(plain: bool) -> str:
    return " - " if plain else " · "


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
