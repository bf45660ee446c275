import polars as pl
import pytest

from tasks.results.repetition import is_repetitive


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("Janet sells 16 - 3 - 4 = 9 eggs. " * 10, True),
        ("She has 9 eggs.\n" + "so " * 200, True),
        ("0" * 500, True),
        ("Different words stand in each of these sentences, and then it ends. " * 3, False),
        ("".join(f"Step {step} gives {step**3}. " for step in range(60)), False),
        ("#### 18", False),
        ("", False),
        ("étape suivante, étape suivante, " * 20, True),
        (None, None),
    ],
)
def test_a_loop_at_the_end_is_flagged(text: str | None, flag: bool | None) -> None:
    frame = pl.DataFrame({"completion": pl.Series([text], dtype=pl.String)})
    assert frame.select(is_repetitive(pl.col("completion"))).item() is flag
