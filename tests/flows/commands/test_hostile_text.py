"""Text in the files of a run is shown by every command and obeyed by none: no terminal, no markup, no page."""

import copy
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from markdown_it import MarkdownIt

from flows.reporting.artifacts import run_markdown
from flows.reporting.summary_view import print_summary
from profiles.load import DEMO_MODEL
from tasks.comparison.equivalence_report import EquivalenceReport
from tasks.comparison.mismatch_report import MismatchReport
from tasks.files import parse_record
from tasks.node.preflight_report import PreflightReport
from tasks.results.run_report import RunReport, read_report
from tasks.storage.published import record_published
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment, harvest, harvest_here
from tests.support.report_run import write_report_run

MARK = "[red][link=https://evil.example]x[/link]"
HOSTILE = (
    f"{MARK}\x1b[31m\x1b]0;owned\x07\x1b]52;c;aGk=\x07\x00\x08\r\x7f\x9b2J\u202e\u2066\u061c\u2028\n# <b>**b**|`:smile:"
)
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NAME = "h\x1b]0;x\x07\u202e\n#<b>\x9b"
"""Of a directory: no slash, no NUL."""
KINDS = {
    "report.json": RunReport,
    "equivalence.json": EquivalenceReport,
    "mismatch.json": MismatchReport,
    "preflight.json": PreflightReport,
}


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place of a string in a JSON value, as its container and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        if isinstance(item, str):
            yield value, key
        else:
            yield from leaves(item)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


def edit_json(path: Path, more: str) -> None:
    """Add ``more`` to every string of the file, and a key with it to every object, unless it is no record then."""
    value = json.loads(path.read_text())

    def is_record() -> bool:
        if (kind := KINDS.get(path.name)) is None:
            return True
        try:
            parse_record(json.dumps(value).encode(), kind)
        except ValueError:
            return False
        return True

    for holder, key in list(leaves(value)):
        before = holder[key]
        holder[key] = before + more
        if not is_record():
            holder[key] = before
    for holder in list(objects(value)):
        if holder:
            holder[f"key{more}"] = copy.deepcopy(next(iter(holder.values())))
            if not is_record():
                del holder[f"key{more}"]
    path.write_text(json.dumps(value))
    record_published(path)


def edit_frames(run: Path) -> None:
    """Add HOSTILE to every text of every Parquet file; ids that were equal stay equal."""
    for path in run.glob("*/shard-*.parquet"):
        frame = pl.read_parquet(path)
        texts = [name for name, kind in frame.schema.items() if kind == pl.String]
        frame = frame.with_columns(pl.col(name).str.slice(0, 300) + HOSTILE for name in texts)
        if "prompt" in frame.columns:
            message = pl.struct(role=pl.lit(f"user{HOSTILE}"), content=pl.lit(HOSTILE))
            frame = frame.with_columns(prompt=pl.concat_list(message))
        frame.write_parquet(path)
        record_published(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs directory: ``run`` with hostile text wherever its files may hold text, and a copy with a hostile name."""
    runs = tmp_path_factory.mktemp("hostile") / "runs"
    run = write_report_run(runs / "run", shards=1, questions_per_shard=3, arms=2, samples=2).root
    for name in ("config.json", *KINDS):
        edit_json(run / name, HOSTILE)
    edit_frames(run)
    shutil.copytree(run, runs / NAME)
    return runs


COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "runs": (0, ("runs",)),
    "show": (0, ("show", NAME)),
    "show errors": (0, ("show", NAME, "--error")),
    "show another arm": (2, ("show", NAME, "--arm", HOSTILE.replace("\0", ""))),
    "show another example": (2, ("show", NAME, "--example", "other")),
    "arms": (0, ("arms", NAME)),
    "diff": (0, ("diff", NAME, "run")),
    "compare": (0, ("compare", NAME, "run")),
    "report": (0, ("report", NAME)),
    "score": (0, ("score", NAME)),
    "export": (0, ("export", NAME, "--to", "jsonl", "--out", "OUT")),
    "export another arm": (2, ("export", NAME, "--to", "jsonl", "--out", "OUT", "--arms", "other")),
    "plan": (0, ("plan", "--after", NAME, "--questions", "2")),
    "mismatch": (2, ("mismatch", NAME)),
    "upload": (2, ("upload", NAME, "OUT")),
    "no such run": (2, ("show", HOSTILE.replace("/", ""))),
    "no such option": (2, ("show", "run", f"--{HOSTILE}")),
}


@pytest.mark.parametrize(("code", "command"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_shows_text_and_does_not_obey_it(
    code: int, command: tuple[str, ...], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in command]
    assert harvest_here(*arguments, "--runs-dir", runs) == code
    shown = capsys.readouterr()
    assert not UNSAFE.findall(shown.out + shown.err)
    assert shown.err.count("\n") == (1 if code else 0)


@pytest.mark.parametrize("command", ["arms run", "compare run run", "diff run run", "show run"])
def test_markup_is_text(command: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest_here(*command.split(), "--runs-dir", runs) == 0
    assert "[red][link=" in capsys.readouterr().out


JSON_COMMANDS = [command for name, (code, command) in COMMANDS.items() if code == 0]


@pytest.mark.parametrize("command", JSON_COMMANDS, ids=[" ".join(command[::2]) for command in JSON_COMMANDS])
def test_json_is_valid_and_has_no_control_characters(
    command: tuple[str, ...], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in command]
    assert harvest_here(*arguments, "--json", "--runs-dir", runs) == 0
    shown = capsys.readouterr().out
    assert not UNSAFE.findall(shown)
    assert shown.isascii()
    documents = shown.splitlines() if command[0] == "show" else [shown]
    assert all(json.loads(document) for document in documents)


def test_the_page_and_the_card_show_text_and_do_not_obey_it(runs: Path) -> None:
    assert harvest_here("report", NAME, "--runs-dir", runs) == 0
    page, card = ((runs / NAME / name).read_text(encoding="utf-8") for name in ("report.html", "README.md"))
    assert not UNSAFE.findall(page + card)
    assert "\N{SYMBOL FOR ESCAPE}" in page
    assert "\N{SYMBOL FOR ESCAPE}" in card

    parsed = MarkdownIt("commonmark").enable("table").parse(card.partition("---\n\n")[2])
    inline = [child.type for token in parsed for child in token.children or ()]
    assert not {"link_open", "image", "html_inline"} & {*inline}
    assert not {"html_block", "code_block"} & {token.type for token in parsed}
    assert [token.content for token in parsed if token.type == "heading_open"] == [""] * 7


def test_the_summary_and_the_artifact_of_a_run_show_text(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = read_report(runs / "run")
    assert report is not None
    print_summary(report)
    shown = capsys.readouterr().out
    assert not UNSAFE.findall(shown)
    assert "[red][link=" in shown

    artifact = run_markdown(replace(report, run_dir=str(runs / "run")), None)
    assert not UNSAFE.findall(artifact)
    parsed = MarkdownIt("commonmark").enable("table").parse(artifact)
    # a link to a file, such as the run directory, is none for this parser
    inline = [child.type for token in parsed for child in token.children or ()]
    assert not {"link_open", "image", "html_inline", "code_inline"} & {*inline}
    assert not {"html_block", "fence", "code_block"} & {token.type for token in parsed}


@pytest.mark.parametrize("command", ["show run", "arms run", "compare run run", "runs"])
def test_a_terminal_that_knows_less_than_unicode_gets_what_it_knows(command: str, runs: Path) -> None:
    ended = harvest(*command.split(), "--runs-dir", runs, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.isascii()


@pytest.mark.parametrize("command", ["plan", "preflight"])
def test_a_model_shows_its_text_and_does_not_obey_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(DEMO_MODEL, tmp_path / f"model{NAME}"))
    edit = json.loads((model / "config.json").read_text())
    edit |= {"architectures": [HOSTILE], "model_type": f"{edit['model_type']}", f"key{HOSTILE}": HOSTILE}
    (model / "config.json").write_text(json.dumps(edit))
    arms = tmp_path / f"arms{NAME}.toml"
    arms.write_text(f"[[arms]]\nid = {json.dumps(HOSTILE)}\nsystem_prompt = {json.dumps(HOSTILE)}\n")
    options = ("--model", model, "--arms", arms, "--profile", write_fake_profile(tmp_path))
    assert harvest_here(command, *options, "--runs-dir", tmp_path / f"runs{NAME}") in (0, 1, 2)
    shown = capsys.readouterr()
    assert not UNSAFE.findall(shown.out + shown.err)
    assert shown.out + shown.err


def test_a_warning_is_one_line() -> None:
    script = (
        "import logging; from flows.terminal import prepare_output; prepare_output(); "
        f"logging.getLogger('tasks').warning('of %s', {HOSTILE!r})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert not UNSAFE.findall(ended.stderr)
    assert (ended.stderr[:3], ended.stderr.count("\n")) == ("of ", 1)


def test_code_that_a_run_names_is_not_imported(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('owned')")
    monkeypatch.syspath_prepend(tmp_path)
    run = Path(shutil.copytree(runs / "run", tmp_path / "runs" / "run"))
    config = json.loads((run / "config.json").read_text())
    config["config"]["scorer"] = "evil_module:score"
    config["profile"]["backend"] = "evil_module:Engine"
    config["config"]["dataset"]["path"] = f"{tmp_path}/evil_module.py"
    (run / "config.json").write_text(json.dumps(config))
    record_published(run / "config.json")
    for command in ("runs", "show run", "arms run", "report run", "score run", "compare run run", "diff run run"):
        assert harvest_here(*command.split(), "--runs-dir", run.parent) == 0
        assert "evil_module" not in sys.modules
    assert harvest_here("export", "run", "--to", "trl", "--out", tmp_path / "out", "--runs-dir", run.parent) == 0
    assert "owned" not in capsys.readouterr().err


def test_a_transfer_shows_text_and_does_not_obey_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / f"store{NAME}"
    assert harvest_here("upload", "run", store, "--runs-dir", runs) == 0
    (store / "run" / "rollouts" / f"shard-{NAME}.parquet").write_text("")
    (store / "run" / "report.json").write_text("")
    assert harvest_here("verify", store / "run") == 1
    assert harvest_here("download", store / "run", tmp_path / f"copies{NAME}") == 1
    assert harvest_here("verify", store) == 1
    assert harvest_here("verify", store / "run", "--json") == 1
    shown = capsys.readouterr()
    assert not UNSAFE.findall(shown.out + shown.err)
    first, second = shown.out.splitlines()[1:3]
    assert first.startswith("report.json has 0 bytes")
    assert second.startswith("rollouts/shard-h\N{SYMBOL FOR ESCAPE}]0;x")


@pytest.mark.parametrize("name", ["config.json", *KINDS])
def test_a_file_that_is_hostile_throughout_is_named_in_one_line(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "run"
    shutil.copytree(runs / "run", run)
    value = json.loads((run / name).read_text())
    renamed = {f"{key}{HOSTILE}\ud800": item for key, item in value.items()}
    (run / name).write_text(json.dumps({**renamed, "run_id": HOSTILE, "verdict": MARK}))
    record_published(run / name)
    for command in ("runs", "arms", "report", "show"):
        arguments = () if command == "runs" else ("run",)
        assert harvest_here(command, *arguments, "--runs-dir", run.parent) in (0, 1, 2)
        shown = capsys.readouterr()
        assert not UNSAFE.findall(shown.out + shown.err)
        assert shown.err.count("\n") <= 1


@pytest.mark.parametrize("command", ["show run", "arms run", "report run", "score run", "compare run run"])
def test_columns_with_hostile_names_are_named_in_one_line(
    command: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs / "run", tmp_path / "runs" / "run"))
    path = run / "rollouts" / "shard-00000.parquet"
    hostile = pl.struct(pl.lit(1).alias(f"field{HOSTILE}"))
    pl.read_parquet(path).with_columns(hostile.alias("ground_truth"), hostile.alias(HOSTILE)).write_parquet(path)
    record_published(path)
    assert harvest_here(*command.split(), "--runs-dir", run.parent) in (1, 2)
    shown = capsys.readouterr()
    assert not UNSAFE.findall(shown.out + shown.err)
    assert shown.err.count("\n") == 1
    assert "its column ground_truth holds Struct" in shown.err


@pytest.mark.parametrize("name", ["completion_ids", "logprobs", "prompt", "ground_truth", "created_at", "temperature"])
def test_a_run_that_lacks_values_is_shown_and_compared(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in ("run", "other"):
        shutil.copytree(runs / "run", tmp_path / run)
    path = tmp_path / "other" / "rollouts" / "shard-00000.parquet"
    rollouts = pl.read_parquet(path)
    rollouts.with_columns(pl.lit(None, rollouts.schema[name]).alias(name)).write_parquet(path)
    record_published(path)
    commands = ("show other", "arms other", "report other", "diff run other", "compare run other", "compare other run")
    codes = [harvest_here(*command.split(), "--runs-dir", tmp_path) for command in commands]
    assert {*codes} <= {0, 1, 2, 3}
    assert capsys.readouterr().err.count("\n") == len(codes) - codes.count(0)


def test_a_log_record_that_goes_to_the_terminal_is_made_visible(runs: Path) -> None:
    assert harvest_here("runs", "--runs-dir", runs) == 0
    record = logging.makeLogRecord({"msg": "%s", "args": (HOSTILE,), "levelno": logging.WARNING})
    assert logging.lastResort is not None
    assert not UNSAFE.findall(logging.lastResort.format(record))
