"""A mismatch in words, on a terminal and as JSON."""

from pathlib import Path

from flows.console import PlainConsole
from tasks.comparison.mismatch_report import publish_mismatch, read_mismatch
from tasks.comparison.mismatch_view import render_mismatch
from tests.support.mismatch import mismatch_report


def test_a_report_says_what_tells_causes_apart() -> None:
    report = mismatch_report()
    assert report.verdict == (
        "KL 0.0533 nats per token (k3) over 2 tokens; 50.00% of the ratios are outside 0.8 to 1.2; the effective "
        "sample is 94.3% of the tokens"
    )
    assert report.evidence == (
        "Weights: the same files as the run's.",
        "Prompts: 1 of 1 have other token ids than this model's tokenizer and chat template make.",
        "Temperature: of 2 from 0.7 to 1, 1 fits best, with a mean gap of 0.125 nats; it is 0.25 at the stated 0.7.",
        "Truncation: with it applied, the mean gap is 0 nats instead of 0.25; tokens that the recomputation cuts "
        "off: 1.",
    )


def test_a_terminal_shows_all_of_it() -> None:
    report = mismatch_report("[red]as the test says")
    console = PlainConsole(width=250)
    with console.capture() as captured:
        console.print(render_mismatch(report))
    shown = captured.get()
    lines = {" ".join(line.replace("│", " ").split()) for line in shown.splitlines()}
    for sentence in (report.verdict, *report.evidence, *report.notes):
        assert sentence in lines
    assert "1 of 4 rollouts of [red]as the test says (seed 0; left out: 1 error rows, 2 empty completions)" in shown
    assert {"tokens 1 to 7 1 -", "token 0 1 0", "[red]as the test says 2 0 1 of 1"} <= lines
    assert "whole softmax, as a trainer computes it 0.25 0.0533 0.8033 0.6105 0.9961 50.00% 94.3% 0" in lines
    assert "cut off" in shown


def test_a_published_report_is_read_as_it_was(tmp_path: Path) -> None:
    publish_mismatch(mismatch_report(), tmp_path)
    publish_mismatch(mismatch_report("newer"), tmp_path)
    assert read_mismatch(tmp_path) == mismatch_report("newer")
