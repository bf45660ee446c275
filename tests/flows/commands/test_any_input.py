"""Whatever stands in the files and options of a run: it is taken, or refused with exit code 2. Nothing is written."""

import contextlib
import datetime
import json
import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.exceptions import ParameterTypeError

from flows.collect import collect_rollouts
from flows.commands.cli import parse
from flows.commands.parameter_options import given_parameters
from flows.commands.run import check_input
from flows.parameters import PARAMETERS
from profiles.arm_schema import Arm, Turn
from profiles.engine_settings import EngineSettings
from profiles.schema import ExpectedNode, Profile, TelemetryTargets
from tasks.errors import HarvestError
from tasks.plan.placeholders import fill_placeholders

pytestmark = pytest.mark.slow
EXAMPLES = os.environ.get("ANY_INPUT_EXAMPLES")
"""How many random examples to try, by hand; without it the same 250 each time, as chance should stop no change."""
many = settings(
    max_examples=int(EXAMPLES or 250),
    derandomize=EXAMPLES is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = (0, -1, 1, 2, 17, 10**9, 2**63, 10**25, 10**400, 0.5, -0.0, 5e-324, 1e308, float("nan"), float("inf"))
TEXTS = (
    "",
    " ",
    "a",
    "demo",
    "1/2",
    "#### 7",
    "\0",
    "\x1b[2J",
    "é",
    "{question}",
    "../x",
    "~",
    "x" * 5_000,
    "\ud800",
    "auto",
)
values = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("place")
        patch.chdir(directory)
        yield directory


def check(place: Path, **parameters: Any) -> None:
    """Check the input of a run as ``harvest run`` does."""
    before = sorted(place.iterdir())
    try:
        resolved = fill_placeholders(parameters, datetime.date(2026, 1, 1))
        check_input(resolved, place / "runs")
    except HarvestError as error:
        refused = error
        assert (refused.exit_code, str(refused).strip() == "") == (2, False), refused
    assert sorted(place.iterdir()) == before


COLUMNS = st.sampled_from(["question", "answer", "id", "x", "", "\ud800"])
rows = st.lists(st.dictionaries(COLUMNS, values, max_size=4), max_size=4)
question = st.fixed_dictionaries({"question": st.sampled_from(TEXTS), "answer": values})


@many
@given(rows=st.lists(question, max_size=3) | rows, suffix=st.sampled_from([".jsonl", ".json"]), cut=st.integers(0, 60))
def test_json_rows(place: Path, rows: list[dict[str, Any]], suffix: str, cut: int) -> None:
    text = "\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows)
    (place / f"rows{suffix}").write_text(text[: -cut % 7 * -8 or None])
    check(place, dataset=f"rows{suffix}", id_column="id" if cut % 2 else None)


@many
@given(
    data=st.text(st.sampled_from('a1,"\n\r ;é\0#'), max_size=60).map(str.encode) | st.binary(max_size=60),
    header=st.booleans(),
)
def test_csv_rows(place: Path, data: bytes, header: bool) -> None:
    (place / "rows.csv").write_bytes(b"question,answer\n" * header + data)
    check(place, dataset="rows.csv")


def toml(value: Any) -> str:
    """Return a TOML value, or what looks like one."""
    match value:
        case None:
            return "1979-05-27"
        case bool() | str() | int() | float():
            return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")
        case list():
            return f"[{', '.join(map(toml, value))}]"
    return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"


def keys(*kinds: Any) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted({name for kind in kinds for name in kind.model_fields}))


def lines(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lines of a TOML table with some of the keys ``names``."""
    return st.dictionaries(
        names, values | st.sampled_from(["vllm", "cuda", "chat", "plain", "a{question}"]), max_size=4
    ).map(lambda table: "".join(f"{name} = {toml(value)}\n" for name, value in table.items()))


noise = (
    st.just("")
    | st.text(st.characters(codec="utf-8"), max_size=12)
    | st.sampled_from(["[" * 9_000, "x" + ".x" * 9_000])
)


@many
@given(
    arms=st.lists(lines(keys(Arm)), max_size=3),
    turns=lines(keys(Turn)),
    noise=noise,
)
def test_arms(place: Path, arms: list[str], turns: str, noise: str) -> None:
    text = "".join(f"[[arms]]\n{'' if 'id =' in arm else f'id = {number}'}\n{arm}" for number, arm in enumerate(arms))
    (place / "arms.toml").write_text(text + (f"[[arms.few_shot]]\n{turns}" if turns else "") + noise)
    check(place, arms="arms.toml")


@many
@given(
    top=lines(keys(Profile)),
    tables=st.tuples(lines(keys(EngineSettings)), lines(keys(ExpectedNode)), lines(keys(TelemetryTargets))),
    noise=noise,
)
def test_profiles(place: Path, top: str, tables: tuple[str, ...], noise: str) -> None:
    named = top if "name =" in top else f'name = "own"\nmodel = "demo"\n{top}'
    sections = zip(("engine", "expect", "targets"), tables, strict=True)
    (place / "own.toml").write_text(named + "".join(f"[{name}]\n{table}" for name, table in sections if table) + noise)
    check(place, profile="own.toml", model="demo")


ELSEWHERE = {"runs_dir", "model"}
"""Set by the test: where nothing may be written, and what only the hub has."""
parameters = st.sampled_from(sorted(PARAMETERS.keys() - ELSEWHERE))


@many
@given(st.dictionaries(parameters, values, min_size=1, max_size=3))
def test_parameters_of_the_flow(place: Path, given_values: dict[str, Any]) -> None:
    # as Prefect does for a deployment's flow run
    with contextlib.suppress(ParameterTypeError):
        check(
            place,
            **{
                name: value
                for name, value in collect_rollouts.validate_parameters(given_values).items()
                if name not in ELSEWHERE
            },
        )


words = (
    st.sampled_from(NUMBERS).map(str) | st.sampled_from(TEXTS) | st.text(st.sampled_from(string.printable), max_size=12)
)


@many
@given(st.dictionaries(parameters, words, min_size=1, max_size=3))
def test_options(place: Path, given_words: dict[str, str]) -> None:
    arguments = [f"{PARAMETERS[name].options[0]}={word}" for name, word in given_words.items()]
    try:
        options = parse(["run", *arguments]).params
    except (click.UsageError, HarvestError) as error:
        refused = error
        assert refused.exit_code == 2
        return
    check(place, **given_parameters(options))
