"""Finds the GSM8K answers of a whole shard: Polars extracts the text after each last marker, and Python reads it.

This is the fast form of ``answer_marker.find_answer`` and gives the same answers. Each distinct text is read once; a
stand-in first replaces an integer that is the only number in the text. ``find_answer`` itself reads a completion for
which the extraction could be wrong: one with a turn token, a question heading, mapped characters, an annotation or a
brace after the marker, or a value that attempts no answer.
"""

from collections.abc import Sequence

import polars as pl

from tasks.scoring.answer_marker import MAX_BOX_CHARS, Answer, MarkedValue, answer_from, find_answer
from tasks.scoring.answer_text import (
    MAPPED_CLASS,
    MAYBE_NEXT_QUESTION,
    QUESTION_WORDS,
    SAME_LINE_QUESTION,
    THINK_NAMES,
    answer_text,
    clean_visible_text,
)
from tasks.scoring.number_text import last_number, lenient_number
from tasks.scoring.score import CUT_FINISH_REASONS

ANSWER_COLUMNS = pl.Schema({"extracted_answer": pl.String, "extraction_method": pl.String, "flexible": pl.String})

_ESCAPE = r"\\[a-zA-Z$%!,;: ]"
_VALUE = rf"(?:[^\n#\\{{}}<>{MAPPED_CLASS}]|{_ESCAPE})"
_AFTER = (
    rf"(?:[^#\\{{}}<>{MAPPED_CLASS}]|\\[\])])*$"  # no later marker, and nothing that closes a box around this marker
)
# after other text, the marker may be a part of an expression; find_answer then decides
_PLAIN_BEFORE = r"(?:^|[\n:]|[^!]=|(?:^|\W)(?:is|are|was|of|has|have|[Tt]hus|[Ss]o|[Tt]herefore|[Aa]nswer|total))"
_HASH = rf"(?:{_PLAIN_BEFORE}|\.)[ \t]{{0,3}}(?:\*\*)?####({_VALUE}+)(?:(\n){_AFTER})?$"
_BOX = (
    rf"{_PLAIN_BEFORE}[ \t$]{{0,3}}(?:\*\*)?[ \t$]{{0,3}}(?:\\[\[(][ \n]?)?"
    rf"\\(?:boxed|fbox) ?\{{((?:{_VALUE}|\{{{_VALUE}*\}})*)\}}"
    rf"[ \t$]{{0,3}}(?:\*\*)?(?:\\[\])])?[ \t$]{{0,2}}(?:[.!]?$|(?:\n|[.!][ \n]){_AFTER})"
)
_LAST_NUMBER = rf"([>{MAPPED_CLASS}]?)([-\x{{2212}}]?[0-9.,]*[0-9])[^0-9<>{MAPPED_CLASS}]*$"
_INTEGER = r"([1-9][0-9]{0,17}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,5})"
# a parenthesis may spell the integer out
_ONE_INTEGER = rf"^((?:[^0-9^]*[^0-9^.,])?){_INTEGER}([^0-9(]*)$"

# the tokens share a few first letters, so the search runs at memory speed
_SPECIAL_TOKENS = [
    *("<|", "<｜", "</s>", "<eos>", "<end_of_turn>", "<start_of_turn>", "<turn|>"),
    *("[INST]", "[/INST]", "[EOS]", "[THINK]", "[/THINK]"),
    *(f"<{slash}{form}" for name in THINK_NAMES for slash in ("", "/") for form in (name.capitalize(), name.upper())),
    *(f"<{slash}{name}" for name in THINK_NAMES if name != "think" for slash in ("", "/")),
    *("<think ", "</think ", "<think\t", "</think\t"),
]


def find_answers(completions: pl.Series, finish_reasons: pl.Series) -> pl.DataFrame:
    """ANSWER_COLUMNS for completions without nulls, in their order; ``flexible`` is the canonical last number."""
    rows = pl.DataFrame(
        {"completion": completions, "is_cut": finish_reasons.is_in(CUT_FINISH_REASONS).fill_null(False)}
    ).with_columns(is_special=_is_special(), is_reasoned=pl.col("completion").str.contains("think>", literal=True))
    reasoned = _where(pl.col("is_reasoned"), pl.col("completion"))
    marked = (
        rows.with_columns(parts=reasoned.str.splitn("</think>", 2))
        .select(_body(), "is_cut", "is_reasoned")
        .with_columns(
            pl.col("body").str.extract_groups(_HASH).alias("hash"),
            pl.col("body").str.extract(_BOX).alias("boxed"),
            pl.col("body").str.extract_groups(_LAST_NUMBER).alias("last_number"),
        )
        .select(pl.exclude("body"), _is_plain().alias("is_plain"), _has_no_marker().alias("is_markerless"))
    )
    boxed, line = pl.col("boxed"), pl.col("hash").struct[0]
    values = marked.select(
        kind=pl.when(boxed.is_not_null())
        .then(pl.lit("boxed"))
        .when(line.is_not_null())
        .then(pl.lit("hash"))
        .when("is_markerless")
        .then(pl.lit("none")),
        value=pl.coalesce(boxed, line, pl.lit("")).str.strip_chars(" "),
        is_cut=pl.col("is_cut") & boxed.is_null() & pl.col("hash").struct[1].is_null(),
        run=pl.when(pl.col("last_number").struct[0] == "").then(pl.col("last_number").struct[1]),
        is_plain=pl.col("is_plain") & (boxed.str.len_chars() < MAX_BOX_CHARS).fill_null(True),
    )
    answers = _read_distinct(values)
    is_whole = ~values["is_plain"] | values["run"].is_null() | answers["extraction_method"].is_null()
    return _with_whole_rows(answers.with_columns(_canonical_runs(values["run"])), rows, is_whole)


def _is_special() -> pl.Expr:
    completion = pl.col("completion")
    return completion.str.contains_any(_SPECIAL_TOKENS) | completion.str.contains("think▷", literal=True)


def _body() -> pl.Expr:
    """The completion, or the text after a think block at its start; null for a special completion."""
    completion, before, after = pl.col("completion"), pl.col("parts").struct[0], pl.col("parts").struct[1]
    opened = before.str.count_matches("<think>", literal=True)
    opened_at_start = before.str.contains(r"^[ \n\t]*<think>").cast(pl.UInt32)
    body = pl.when(after.is_not_null() & (opened == opened_at_start)).then(after).otherwise(completion)
    return _where(~pl.col("is_special"), body).alias("body")


def _where(condition: pl.Expr, text: pl.Expr) -> pl.Expr:
    """``text`` where ``condition``, else null: ``extract`` and ``count_matches`` skip nulls, ``contains`` does not."""
    return pl.when(condition).then(text)


def _has(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.extract(f"({pattern})").is_not_null()


def _is_plain() -> pl.Expr:
    body = pl.col("body")
    return (
        body.is_not_null()
        & ~_has(_where(pl.col("is_reasoned"), body), "think>")
        & ~body.str.contains(MAYBE_NEXT_QUESTION)
        & ~_has(_where(body.str.contains_any(QUESTION_WORDS), body), SAME_LINE_QUESTION)
    ).fill_null(False)


def _has_no_marker() -> pl.Expr:
    """Whether a text has no marker; evaluated only where no marker was extracted."""
    body = _where(pl.col("hash").struct[0].is_null() & pl.col("boxed").is_null(), pl.col("body"))
    # cleaning removes mapped characters and annotations, which can leave a marker
    suspicious = _where(_has(body, r"[#\\＃＼]"), body)
    return ~(_has(body, r"####|\\boxed|\\fbox") | _has(suspicious, rf"<<|[{MAPPED_CLASS}]"))


def _read_distinct(values: pl.DataFrame) -> pl.DataFrame:
    """The answer per row, read once per distinct form; the method is null where the whole text must be read."""
    key = ["kind", "value", "is_cut"]
    distinct = values.filter(pl.col("is_plain") & pl.col("kind").is_not_null()).select(key).unique()
    return (
        values.select(key)
        .join(_read_forms(distinct), on=key, how="left", maintain_order="left")
        .select("extracted_answer", "extraction_method")
    )


def _read_forms(values: pl.DataFrame) -> pl.DataFrame:
    key = ["kind", "form", "is_cut"]
    parts = pl.col("value").str.extract_groups(_ONE_INTEGER)
    digits = parts.struct[1].str.replace_all(",", "", literal=True)
    # the reader checks only whether such an integer has more digits than the number of a heading
    stand_in = pl.when(digits.str.len_bytes() > 2).then(pl.lit("100")).otherwise(pl.lit("10"))
    forms = values.with_columns(
        digits=digits,
        stand_in=stand_in,
        form=pl.coalesce(pl.concat_str(parts.struct[0], stand_in, parts.struct[2]), "value"),
    )
    distinct = forms.select(key).unique()
    answers = [_answer_of(*row) for row in distinct.iter_rows()]
    table = distinct.with_columns(
        pl.Series("canonical", [answer and answer.canonical for answer in answers], dtype=pl.String),
        pl.Series("method", [answer and answer.method for answer in answers], dtype=pl.String),
    )
    canonical, is_negative = pl.col("canonical"), pl.col("canonical").str.starts_with("-")
    return forms.join(table, on=key, how="left").select(
        *values.columns,
        extracted_answer=pl.when(pl.col("digits").is_null())
        .then(canonical)
        .when(is_negative)
        .then("-" + pl.col("digits"))
        .when(~is_negative)
        .then("digits"),
        # another number than the stand-in means that the answer depends on the integer
        extraction_method=pl.when(
            pl.col("digits").is_null() | canonical.is_null() | (canonical.str.strip_prefix("-") == pl.col("stand_in"))
        ).then("method"),
    )


def _answer_of(kind: str, value: str, is_cut: bool) -> Answer | None:
    if kind == "none":
        return Answer(canonical=None, method="truncated" if is_cut else "none")
    marked = MarkedValue(raw=value, kind="boxed" if kind == "boxed" else "hash", is_open=is_cut)
    return answer_from(marked, is_cut=is_cut)


def _canonical_runs(runs: pl.Series) -> pl.Series:
    integer = runs.str.extract(f"^{_INTEGER}$").str.replace_all(",", "", literal=True)
    distinct = runs.filter(integer.is_null()).drop_nulls().unique()
    table = pl.DataFrame(
        {"run": distinct, "canonical": pl.Series([lenient_number(run) for run in distinct], dtype=pl.String)}
    )
    found = runs.to_frame("run").join(table, on="run", how="left", maintain_order="left")["canonical"]
    return integer.zip_with(integer.is_not_null(), found).alias("flexible")


def _with_whole_rows(fast: pl.DataFrame, rows: pl.DataFrame, is_whole: pl.Series) -> pl.DataFrame:
    indices = is_whole.arg_true()
    if indices.is_empty():
        return fast
    columns = rows[indices].select("completion", "is_cut", is_bare=~pl.col("is_special") & ~pl.col("is_reasoned"))
    whole = [_whole_answer(*row) for row in columns.iter_rows()]
    table = pl.DataFrame(whole, schema=ANSWER_COLUMNS, orient="row")
    return fast.with_columns(fast[name].scatter(indices, table[name]) for name in ANSWER_COLUMNS)


def _whole_answer(text: str, is_cut: bool, is_bare: bool) -> Sequence[str | None]:
    cleaned = clean_visible_text(text) if is_bare else answer_text(text)
    answer = find_answer(cleaned, is_cut=is_cut)
    return answer.canonical, answer.method, last_number(cleaned.text)
