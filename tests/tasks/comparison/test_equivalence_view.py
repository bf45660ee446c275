import io
from pathlib import Path

import polars as pl
import pytest

from flows.console import PlainConsole
from tasks.comparison.equivalence import compare_runs
from tasks.comparison.equivalence_view import render_equivalence
from tests.support.toy_model import edit, write_toy_run


def shown(baseline: Path, candidate: Path) -> str:
    console = PlainConsole(file=io.StringIO(), width=160)
    console.print(render_equivalence(compare_runs(baseline, candidate)))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_the_verdict_comes_first_and_the_worst_rollouts_are_shown(tmp_path: Path) -> None:
    baseline = write_toy_run(tmp_path / "before")
    candidate = write_toy_run(tmp_path / "after", temperature=1.5, stated_temperature=0.7, tested={"replicas": 2})
    text = shown(baseline.root, candidate.root)
    assert text.index("different") < text.index("Tiers") < text.index("Rewards")
    assert "after against before" in text
    assert "statistical was required: not met" in text
    assert "replicas" in text
    assert "default of bfloat16" in text
    assert text.count("shifted at token") == 3


def test_what_a_run_lacks_is_shown(tmp_path: Path) -> None:
    baseline, candidate = (write_toy_run(tmp_path / name) for name in ("before", "after"))
    candidate.rollouts(1).unlink()
    text = shown(baseline.root, candidate.root)
    assert text.index("incomplete  (statistical was required: not met)") < text.index("Tiers")
    for cells in (("rollouts, baseline / candidate", "48 / 24"), ("stated in config.json", "48 / 48")):
        assert [line for line in text.splitlines() if all(cell in line for cell in cells)], cells


def test_a_run_against_itself(tmp_path: Path) -> None:
    run = write_toy_run(tmp_path / "run").root
    text = shown(run, run)
    assert "bitwise" in text
    assert "First divergences" not in text
    assert "What is tested" not in text


@pytest.mark.parametrize("markup", ["[bold]x[/bold]", "[/", "[link=x]"])
def test_text_of_a_model_is_shown_as_it_is(tmp_path: Path, markup: str) -> None:
    baseline, candidate = (write_toy_run(tmp_path / name) for name in ("a", "b"))
    edit(candidate.rollouts(0), pl.lit(markup).alias("completion"))
    assert markup in shown(baseline.root, candidate.root)
