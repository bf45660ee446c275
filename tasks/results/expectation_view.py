"""What a run will take, and what one took, in words."""

from collections.abc import Iterator

from rich.filesize import decimal

from tasks.plain_text import one_line
from tasks.results.expectation import Expected, Source
from tasks.results.outcome import Outcome
from tasks.results.page_cards import in_words

_LONGEST_NAME = 300


def plan_lines(expected: Expected) -> list[str]:
    """Return what ``harvest plan`` says: one line for each value, with how it is known."""
    done = f"; {expected.rollouts_finished:,} are finished" if expected.rollouts_finished else ""
    prompts = "" if expected.prompt_tokens is None else f", and {expected.prompt_tokens:,} of prompts"
    lines = [
        f"expected rollouts: {_rollouts(expected)}{done}",
        f"expected tokens: {_tokens(expected)}{prompts}: {_known(expected.tokens_from)}",
    ]
    if expected.seconds is None or expected.seconds_most is None:
        lines.append(f"expected time: unknown: {_unknown(expected.speed_from)}. harvest bench measures it")
    else:
        rate = f"engine start {in_words(expected.start_seconds or 0)}, then {expected.tokens_per_s:,.0f} tokens/s"
        time = f"about {in_words(expected.seconds)} (at most {in_words(expected.seconds_most)})"
        lines.append(f"expected time: {time}, {rate}: {_known(expected.speed_from)}")
    size = f"about {decimal(expected.disk_bytes)} (at most {decimal(expected.disk_bytes_most)})"
    return [*lines, f"expected disk: {size}: {_known(expected.disk_from)}", f"expected cost: {_cost(expected)}"]


def run_lines(expected: Expected) -> list[str]:
    """Return what a run says at its start: what it will take, and how that is known."""
    time = "time unknown" if expected.seconds is None else f"about {in_words(expected.seconds)}"
    cost = "" if expected.cost_usd is None else f", ${expected.cost_usd:,.2f}"
    parts = (f"{_rollouts(expected)} rollouts", _tokens(expected), time, f"{decimal(expected.disk_bytes)} on disk")
    tokens, speed = _known(expected.tokens_from), _unknown(expected.speed_from)
    if expected.seconds is not None:
        speed = _known(expected.speed_from)
    told = f"tokens and time: {tokens}" if tokens == speed else f"tokens: {tokens}; time: {speed}"
    return [f"expected: {', '.join(parts)}{cost}", told]


def outcome_line(outcome: Outcome) -> str:
    """Return what was expected beside what came."""
    time = "" if outcome.expected_seconds is None else f" in {in_words(outcome.expected_seconds)}"
    return (
        f"expected were {outcome.expected_tokens:,} tokens{time}, and {outcome.tokens:,} were made in "
        f"{in_words(outcome.seconds)} with the engine's start"
    )


def _rollouts(expected: Expected) -> str:
    """Return how many rollouts, which is a range where groups stop by a rule."""
    if expected.rollouts == expected.rollouts_most:
        return f"{expected.rollouts:,}"
    if expected.rollouts_by is None:
        # what follows is of the least, as no earlier run has pass rates
        return f"{expected.rollouts:,} to {expected.rollouts_most:,}"
    by = one_line(expected.rollouts_by, _LONGEST_NAME)
    return f"about {expected.rollouts:,} (by the pass rates of {by}; at most {expected.rollouts_most:,})"


def _tokens(expected: Expected) -> str:
    about = "about" if expected.rollouts == expected.rollouts_most or expected.rollouts_by else "from about"
    return f"{about} {expected.completion_tokens:,} completion tokens (at most {expected.completion_tokens_most:,})"


def _cost(expected: Expected) -> str:
    price = expected.gpu_hour_usd
    if not expected.gpus:
        return "none, as no GPU is used"
    if price is None:
        return "unknown: the profile has no price (gpu_hour_usd)"
    if expected.cost_usd is None:
        return "unknown, as the time is"
    gpus = f"{expected.gpus} GPU{'s' if expected.gpus > 1 else ''} at ${price:,.2f} an hour"
    return f"about ${expected.cost_usd:,.2f} (at most ${expected.cost_usd_most:,.2f}): {gpus}"


def _known(source: Source) -> str:
    return "; ".join(_words(source))


def _unknown(source: Source) -> str:
    return f"no earlier run or benchmark {source.note}"


def _words(source: Source) -> Iterator[str]:
    if source.kind == "guess":
        yield f"a guess, {source.note}, as no earlier run tells"
        return
    if source.run is not None:
        yield f"as in {one_line(source.run, _LONGEST_NAME)}, which had {source.rollouts:,} rollouts"
        if source.same:
            yield f"same {', '.join(source.same)}"
        if source.other:
            yield f"other {', '.join(source.other)}"
    if source.note:
        yield source.note
